"""Values inside of tuples, lists and dicts, as users write batches and arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(value: object) -> Iterator[object]:
    """The values at the ends of nested tuples, lists and dicts, in order."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Call a function with each value inside of nested tuples and lists; these become tuples."""
    if isinstance(value, (tuple, list)):
        return tuple(mapped(function, each) for each in value)
    return function(value)
