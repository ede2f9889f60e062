"""How processes of our own are started: with what they need imported, and nothing else of their parent's."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.util import get_temp_dir
from typing import Any

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
