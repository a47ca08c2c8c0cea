"""The exit status that tells a shell how a command ended."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of the command ``autotune``."""

    MET = 0
    """The command succeeded; for a run: the accuracy target is met, be it by fp32 where nothing faster keeps it."""
    FAILED = 1
    """The run failed, through us or through the user's own code."""
    BAD_INPUT = 2
    """An input that was given cannot be used."""
    NOT_MET = 3
    """The run finished, but no candidate is known to keep the target, nothing was tried, or it is undecided whether one
    that keeps it is faster than fp32. The answer is fp32; the nearest candidate is written beside it."""
    NOT_CONFIRMED = 4
    """The run finished and the target is met, but not by the config that it started from: that is refuted, or could not
    be decided."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, as shells count it; the best so far is written."""
