"""Trains the record model in its two parts and evaluates it, going on where it was interrupted (hours).

python experiments/deep_hierarchies/record.py [RUNS_DIRECTORY] [setting=value ...]
"""

import signal
import subprocess
import sys
from pathlib import Path

PARTS = {"first": "experiment=record", "second": "experiment=[record,restart]"}


def main() -> int:
    """Exit code of the first command that fails, or 0."""
    given, settings = sys.argv[1:2], sys.argv[2:]
    if given and "=" in given[0]:
        given, settings = [], sys.argv[1:]
    runs = Path(given[0] if given else "runs/record")
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the training, which leaves what it has done
    steps = []
    for name, preset in PARTS.items():
        run = runs / name
        if (run / "metrics.json").exists():
            continue
        begun = (run / "checkpoints/last.ckpt").exists()
        new = ["train", preset, f"run_dir={run}", *settings]
        if name == "second":
            new.append(f"init_from={runs / 'first'}")
        steps.append(["train", f"resume={run}"] if begun else new)
    steps.append(["evaluate", f"run={runs / 'second'}", "num_samples=5000"])
    for command, *arguments in steps:
        code = subprocess.run([sys.executable, "-m", f"ladder_vae.{command}", *arguments]).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
