"""Lines that a user reads about a model, whatever the adapter, and how they name its ops."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 3


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def lines_on_ranges(infinite: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Why ops have no integers after calibration, a line for each reason.

    Args:
        infinite: Ops around which values are infinite or NaN.
        unseen: Ops around which tensors were empty in all batches.
    """
    lines = []
    if infinite:
        lines.append(f"{listed(infinite)}: no integers, since values around it are infinite or NaN, as in masks")
    if unseen:
        lines.append(f"{listed(unseen)}: no range from calibration, since its tensors were empty in all batches")
    return lines
