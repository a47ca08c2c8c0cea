"""Which lists of runtimes can be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.adapters import adapter_names
from autotune.suggestion import suggestion


def broken_rule_of(names: Sequence[str]) -> str | None:
    """The rule that a list of runtimes breaks, as the end of a sentence; None where it breaks none."""
    known = adapter_names()
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        return f"must list one adapter or more, of {', '.join(known)}, but got {names!r}"
    for name in names:
        if name not in known:
            return f"must name adapters, but got {name!r}{suggestion(str(name), known)}. There are: {', '.join(known)}"
    if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        return f"must name each adapter once, but got {', '.join(twice)} more than once"
    return None
