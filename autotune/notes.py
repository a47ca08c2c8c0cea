"""How the lines that a user reads about a model name its ops."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 3


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
