"""JSON as it is stored, and JSON that may come from anybody."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: It is no JSON, or is nested deeper than Python follows, which :func:`json.loads` reports as another
            error than all else.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def require_known(names: Iterable[str], known: Iterable[str], of: str) -> None:
    """See that stored data have no key that would be left out.

    Raises:
        TypeError: They have.
    """
    if unknown := sorted({*names} - {*known}):
        raise TypeError(f"{unknown[0]!r} is no key of {of}, which has {', '.join(known)}")


def canonical_json(value: object) -> str:
    """The one text of equal values, by which they are hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
