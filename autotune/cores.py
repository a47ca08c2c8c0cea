"""The cores that this process may use, which in a container or under ``taskset`` are fewer than the machine has."""

from __future__ import annotations

import os


def usable_cores() -> list[int]:
    """Their numbers, sorted; those of the machine where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
