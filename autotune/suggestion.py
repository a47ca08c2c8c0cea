"""Suggests the nearest known name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None where none is much like it."""
    folded = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A clause for an error message, ``; did you mean 'Conv'?``-like, or nothing where no known name is near."""
    found = nearest(name, known)
    return f" (did you mean {found!r}?)" if found is not None else ""
