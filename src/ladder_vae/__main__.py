"""One command for all: ``ladder-vae train model.num_layers=3``, or ``python -m ladder_vae train ...``."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module

from ladder_vae import __version__
from ladder_vae.settings import command_line
from ladder_vae.settings.help import COMMANDS, usage
from ladder_vae.system.errors import UserError


def main() -> None:
    """Entry point."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        command_line.run(lambda: _answer(name))
    sys.argv[:] = [f"ladder-vae {name}", *sys.argv[2:]]
    import_module(f"ladder_vae.{name}").main()


def _answer(name: str) -> None:
    """Print what is asked for beside commands. Raises UserError for anything else."""
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(f"ladder-vae {__version__}")
    else:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"there is no command {name}; {hint}choose {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
