"""Trains the record model in its two parts and evaluates it, going on where it was interrupted (hours).

python experiments/deep_hierarchies/record.py [RUNS_DIRECTORY] [setting=value ...]
"""

import subprocess
import sys
from pathlib import Path

PARTS = {"first": ["experiment=record"], "second": ["experiment=[record,restart]"]}


def main() -> int:
    """Exit code of the first command that fails, or 0."""
    given = [argument for argument in sys.argv[1:] if "=" not in argument]
    settings = [argument for argument in sys.argv[1:] if "=" in argument]
    runs = Path(given[0] if given else "runs/record")
    steps = []
    for name, preset in PARTS.items():
        run = runs / name
        if (run / "metrics.json").exists():
            continue
        begun = (run / "checkpoints/last.ckpt").exists()
        steps.append(["train", f"resume={run}"] if begun else ["train", *preset, f"run_dir={run}", *settings])
    steps.append(["evaluate", f"run={runs / 'second'}", "num_samples=5000"])
    for command, *arguments in steps:
        code = subprocess.run([sys.executable, "-m", f"ladder_vae.{command}", *arguments]).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
