"""Analyzes the newest finished run of three levels; trains one if there is none (minutes).

python experiments/level_analysis/newest.py [RUNS_DIRECTORY] [setting=value ...]
"""

import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from ladder_vae.runs.finding import newest

LEVELS = 3


def main() -> int:
    """Exit code of the command that failed, or 0."""
    given, settings = sys.argv[1:2], sys.argv[2:]
    if given and "=" in given[0]:
        given, settings = [], sys.argv[1:]
    runs = Path(given[0] if given else "runs")
    signal.signal(
        signal.SIGINT, lambda *_: None
    )  # Ctrl-C is for the command that runs, which knows what to do
    run = newest(runs, LEVELS)
    if not run:
        print(f"there is no {LEVELS}-level run below {runs}; training one (minutes)", flush=True)
        sweep = runs / "level_analysis" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        preset = ["experiment=level_analysis", "model=ladder", "seed=1", f"run_dir={sweep}"]
        if code := call("train", "--multirun", *preset):
            return code
        run = newest(runs, LEVELS)
    print(f"analyzing {run}; another one: make analyze run=<run_dir>", flush=True)
    return call("analyze", f"run={run}", *settings)


def call(command: str, *arguments: str) -> int:
    """Exit code of ``python -m ladder_vae.COMMAND``."""
    return subprocess.run([sys.executable, "-m", f"ladder_vae.{command}", *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main())
