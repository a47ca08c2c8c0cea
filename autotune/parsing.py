"""JSON that may come from anybody."""

from __future__ import annotations

import json
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
