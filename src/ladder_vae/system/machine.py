"""What this process may use of the machine: processors and memory, within the limits of a container.

Functions take the root of the file system, so that tests can make up a machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def processors(root: Path = ROOT) -> int:
    """Number of processors: those that the process is bound to, or fewer if its cgroup has a quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [
        float(quota) / float(period)
        for quota, period in [
            *(text.split() for text in _limits(root, "", "cpu.max")),
            *zip(
                _limits(root, "cpu", "cpu.cfs_quota_us"),
                _limits(root, "cpu", "cpu.cfs_period_us"),
                strict=False,
            ),
        ]
        if quota not in ("max", "-1")
    ]
    return max(1, int(min([bound, *quotas])))  # threads beyond the quota would wait for each other


def memory(root: Path = ROOT) -> int:
    """Bytes of memory: what the machine has, or less if the cgroup of the process has a limit."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    texts = [*_limits(root, "", "memory.max"), *_limits(root, "memory", "memory.limit_in_bytes")]
    return min([there, *(int(text) for text in texts if text != "max")])


def limit_threads() -> None:
    """Let PyTorch use no more threads than there are processors. It counts those that a quota takes away."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), processors()))


def _limits(root: Path, controller: str, file: str) -> Iterator[str]:
    """What a file of the process's cgroup and of each cgroup above it says.

    Args:
        controller: Of cgroup v1, which has one tree for each; empty for v2, which has one tree for all.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    top = root / "sys/fs/cgroup" / controller
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        here = top / path.lstrip("/")
        # A container sees its own cgroup at the top, whatever path it is told.
        for directory in [here, *here.parents]:
            if directory.is_relative_to(top) and (directory / file).is_file():
                yield (directory / file).read_text().strip()
