"""Importance-weighted likelihoods and active units: ``python -m ladder_vae.evaluate run=<dir>``."""

from __future__ import annotations

from omegaconf import DictConfig

from ladder_vae.evaluation.parts import SAMPLE_SIZES, choose_sample_sizes, evaluate
from ladder_vae.evaluation.results import keep, print_summary, progress_bar
from ladder_vae.models.evaluator import Settings
from ladder_vae.runs.metrics import IMAGES_OF
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import command_line, composition, schema
from ladder_vae.system.compilation import DRAWS_THAT_PAY, choose
from ladder_vae.system.devices import choose_device
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.machine import limit_threads


def run(cfg: DictConfig) -> None:
    """Check everything, then evaluate run after run."""
    composition.check_settings(cfg, schema.EvaluateConfig, {"chunk_size": 1, "binarizations": 1})
    sizes = choose_sample_sizes(cfg.num_samples, None if cfg.k is None else list(cfg.k))
    for k in SAMPLE_SIZES:
        if cfg.k is None and k < cfg.num_samples and k not in sizes:
            warn(f"K={k} is left out: it does not divide num_samples={cfg.num_samples}")
    settings = Settings(cfg.num_samples, sizes, cfg.seed, cfg.chunk_size, cfg.binarizations)
    if cfg.split not in IMAGES_OF:
        raise UserError(f"split={cfg.split} is unknown; choose {', '.join(IMAGES_OF)}")
    device = choose_device(cfg.device)
    choose("compile", cfg.compile, False)  # refuses an unknown value before any run is opened

    def check(subject: Subject) -> None:
        data = subject.data
        if settings.binarizations > 1 and not (data.likelihood.random and data.binarization == "dynamic"):
            raise UserError(
                f"binarizations={settings.binarizations} draws pixels anew, and those of {subject.run.path} "
                f"are fixed (data.binarization={data.binarization}, likelihood "
                f"{type(data.likelihood).__name__}); leave it out"
            )

    def work(subject: Subject, name: str) -> None:
        images = settings.binarizations * len(subject.indices)
        with progress_bar(name, images) as advance:
            pays = settings.draws * images >= DRAWS_THAT_PAY
            compile_pass = choose("compile", cfg.compile, pays)
            evaluation = evaluate(subject, settings, device, advance, compile=compile_pass)
        keep(subject, evaluation, settings)
        print_summary(subject, evaluation, settings)

    root = own_copy(cfg.run)
    try:
        failed = over_runs(root, cfg.checkpoint, cfg.images, work, check, cfg.split, cfg.trust, cfg.data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished parts are kept; the same command continues") from None
    print(root)
    if failed:
        raise UserError(f"{failed} could not be evaluated")


def main() -> None:
    """Entry point."""
    schema.register()
    limit_threads()
    command_line.run(_checked)


def _checked() -> None:
    for cfg in composition.compose("evaluate"):
        run(cfg)


if __name__ == "__main__":
    main()
