"""Lines that a user reads about a model, whatever the adapter, and how they name its ops and count."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 3


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 op``, ``2,000 ops``.

    Args:
        number: How many there are.
        noun: The noun in the singular, with an adjective before it where it has one.
        plural: The plural, where it is not the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


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
