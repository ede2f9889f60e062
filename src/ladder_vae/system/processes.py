"""How processes of our own live: what they have at their start, and that they end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any

from ladder_vae.system.memory import keep_freed_memory

IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")  # a scheduler sends them to every process
LONGEST_SOCKET = 100  # bytes of the path of a Unix socket; systems take 104 to 108


def fresh_processes(*modules: str) -> Any:
    """The context in which ``multiprocessing`` starts them.

    On Linux, they are forked from a process that has only imported. Elsewhere each imports for itself.

    Args:
        modules: What they import.
    """
    fork = sys.platform == "linux" and _room_for_a_socket()
    context: Any = multiprocessing.get_context("forkserver" if fork else "spawn")
    context.set_forkserver_preload(list(modules))
    return context


def be_a_worker(threads: int) -> None:
    """Begin a process that computes for its parent, prints nothing, and ends when its parent does.

    Args:
        threads: How many it computes with.
    """
    import torch

    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that the terminal's Ctrl-C goes to the parent alone, which ends this one
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(threads)
    _say_nothing()


def ended(code: int | None) -> str:
    """What is said of a process that has failed without a word, by its exit code."""
    return f"ended with code {code}" + ", killed, perhaps for its memory" * (code == -9)


def end_all(processes: Collection[BaseProcess]) -> None:
    """Kill them, all of them before any is waited for, so that an interrupt meanwhile leaves none alive."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _say_nothing() -> None:
    """Have nowhere to print, whatever prints: libraries hold on to the streams that they find at first."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = open(nowhere, "w")  # noqa: SIM115  until the process ends


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _room_for_a_socket() -> bool:
    """Have multiprocessing make its temporary directory where the path of a socket is not too long."""
    name = len("/pymp-12345678/listener-12345678")
    before = tempfile.tempdir
    for directory in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(os.fsencode(directory)) + name > LONGEST_SOCKET or not os.access(directory, os.W_OK):
            continue
        tempfile.tempdir = directory
        try:
            return len(os.fsencode(get_temp_dir())) < LONGEST_SOCKET  # made now, once for this process
        finally:
            tempfile.tempdir = before
    return False
