"""Train models of several depths, then compare them: ``python -m ladder_vae sweep seed=1,2,3``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ladder_vae import train
from ladder_vae.comparison.reporting import report
from ladder_vae.settings import command_line
from ladder_vae.settings.help import COMMANDS
from ladder_vae.settings.paths import expanded
from ladder_vae.system.errors import Refusal, UserError
from ladder_vae.training.finishing import TRUST

PRESET = "depth_sweep"
HELP = f"""usage: ladder-vae sweep KEY=VALUE ...

{COMMANDS["sweep"]}

seed=1,2,3                seeds; several show the noise between them
model.num_layers=1,2,3,5  depths; default: those of the experiment
experiment={PRESET}    a file of conf/experiment, which says what is trained
run_dir=DIR               where to write; default: a directory below runs/{PRESET}
resume=DIR                finish a sweep that was stopped, with its own settings
KEY=VALUE                 any key of ladder-vae train; of values between commas, each is trained"""


def main() -> None:
    """Entry point."""
    train.prepare()
    command_line.run(lambda: _sweep(sys.argv[1:]))


def _sweep(arguments: Sequence[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    if resumed := [argument for argument in arguments if argument.startswith("resume=")]:
        others = [argument for argument in arguments if argument != resumed[-1]]
        if any(argument != TRUST for argument in others):
            raise UserError("resume= takes the settings of the sweep; leave out all others")
        sys.argv[1:] = [resumed[-1].replace("resume=", "finish=", 1), *others]
        train.run()
        return
    named = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    experiment = named.get("experiment", PRESET)
    place = Path(expanded("run_dir", named["run_dir"])) if "run_dir" in named else _place(experiment)
    ours = {"experiment": f"experiment={experiment}", "run_dir": f"run_dir={place}"}
    flags = [] if {"-m", "--multirun"} & set(arguments) else ["--multirun"]
    sys.argv[1:] = [*flags, *(setting for key, setting in ours.items() if key not in named), *arguments]
    failure: BaseException | None = None
    try:
        train.run()
    except (Exception, Refusal) as error:
        if not (place / "multirun.yaml").exists():  # none of the jobs has started
            raise
        failure = error
    if (place / "multirun.yaml").exists():
        report([place], place)
    if failure is not None:
        raise failure


def _place(experiment: str) -> Path:
    """A directory of its own for the sweep."""
    return Path("runs") / experiment / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


if __name__ == "__main__":
    main()
