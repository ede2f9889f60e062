"""Launchers and sweepers of other packages: which extra installs each, and whether what it needs is there."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ladder_vae.settings.paths import as_override
from ladder_vae.system.errors import UserError, one_line

EXTRAS = {  # choice of a group: the extra that installs it, and the module that does its work
    "hydra/launcher/ray": ("ray", "ray"),
    "hydra/launcher/submitit_local": ("slurm", "submitit"),
    "hydra/launcher/submitit_slurm": ("slurm", "submitit"),
    "hydra/sweeper/optuna": ("optuna", "optuna"),
}
OF_SLURM = ("sbatch", "srun")  # commands of SLURM that submitit calls
PATIENCE = 5.0  # seconds in which a Ray cluster has to take a connection; Ray itself waits for minutes
# How a client of gRPC begins (RFC 9113, 3.4): with these words and a frame of settings; it gets such a frame.
SETTINGS = b"\x04"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)
PORT_OF_CLIENTS = 10001  # of ray://host


def extra_of(choice: str) -> str | None:
    """What to say of a choice as ``hydra/launcher/ray`` whose package is missing; None of any other."""
    if choice not in EXTRAS:
        return None
    extra, _ = EXTRAS[choice]
    group, _, option = choice.rpartition("/")
    return f"{group}={option} needs packages that are not installed; pip install 'ladder-vae[{extra}]'"


def starts_here(hydra: DictConfig) -> bool:
    """Whether the jobs of a sweep are processes of this command, as of our launcher and Hydra's basic one.

    Args:
        hydra: The node ``hydra`` of a composed configuration.
    """
    return hydra.launcher._target_.endswith((".ParallelLauncher", ".BasicLauncher"))


def check_launcher(hydra: DictConfig) -> None:
    """Check what the chosen launcher and sweeper need, before any job is looked at.

    Args:
        hydra: The node ``hydra`` of a composed configuration.

    Raises:
        UserError: If a package is missing, a Ray cluster does not answer, or SLURM is not on this machine.
    """
    for group in ("hydra/launcher", "hydra/sweeper"):
        choice = f"{group}/{hydra.runtime.choices.get(group)}"
        if choice in EXTRAS and find_spec(EXTRAS[choice][1]) is None:
            raise UserError(extra_of(choice))
    if address := _address(hydra):
        _check_address(address)
    missing = [name for name in OF_SLURM if shutil.which(name) is None]
    if hydra.launcher._target_.endswith(".SlurmLauncher") and missing:
        raise UserError(
            f"hydra/launcher=submitit_slurm: there is no {missing[0]} on this machine; start the sweep where "
            "jobs of SLURM are submitted, or take hydra/launcher=submitit_local"
        )


def _address(hydra: DictConfig) -> str | None:
    """Where the jobs of the Ray launcher go; None if it starts a cluster of its own, or is not chosen."""
    if not hydra.launcher._target_.endswith(".RayLauncher"):
        return None
    asked = OmegaConf.select(hydra, "launcher.ray.init.address") or os.environ.get("RAY_ADDRESS")
    return None if asked in (None, "", "local") else str(asked)


def _check_address(address: str) -> None:
    """Raises UserError if nothing listens where a Ray cluster is said to be."""
    if address == "auto":  # Ray looks for one on this machine, and says at once if there is none
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port or (PORT_OF_CLIENTS if place.scheme else None)
    except ValueError:  # the port is no number
        host = port = None
    if not host or not port:
        raise UserError(
            f"hydra.launcher.ray.init.address={address} is no address of a Ray cluster; write it as "
            "host:port or ray://host:port, or leave it out for a cluster of this machine alone"
        )
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            said = _greeting(connection)
    except OSError as error:
        said = f"does not answer ({one_line(error)})"
    if said:
        raise UserError(
            f"hydra.launcher.ray.init.address={address} {said}; start a cluster there (ray start --head), or "
            "leave the address out for one of this machine alone"
        )


def _greeting(connection: socket.socket) -> str:
    """What is wrong with the first words of a server; empty for one that speaks gRPC, as all of Ray's do."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return ""  # such a server first wants to see a certificate
    connection.sendall(PREFACE)
    with connection.makefile("rb") as answer:
        return "" if answer.read(9)[3:4] == SETTINGS else "is no address of a Ray cluster"


def suit_launcher(config: DictConfig, directory: Path) -> None:
    """Have the jobs of a launcher find the directory of the sweep from wherever it starts them.

    A Ray cluster that is there already is joined as it is. hydra-ray-launcher would ask it for another size
    of its object store, which Ray refuses.

    Args:
        config: As Hydra composed it for the sweep. Hydra composes each job anew, from overrides.
        directory: The directory of the sweep.
    """
    place = str(directory.absolute())
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = place
        others = [o for o in config.hydra.overrides.hydra if not o.startswith("hydra.sweep.dir=")]
        config.hydra.overrides.hydra = [*others, as_override(f"hydra.sweep.dir={place}")]
        if _address(config.hydra):
            config.hydra.launcher.ray.init.setdefault("object_store_memory", None)
