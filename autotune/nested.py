"""Values inside of tuples, lists and dicts, as users write batches and arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def leaves(value: object) -> Iterator[object]:
    """The values at the ends of nested tuples, lists and dicts, in order."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from leaves(each)
    else:
        yield value
