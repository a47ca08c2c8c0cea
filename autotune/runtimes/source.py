"""The source that each runtime loads the user's model from."""

from __future__ import annotations

from typing import Any

from autotune.adapter import Adapter, Example


def source_for(adapter: Adapter[Any], source: object, example: Example | None) -> object:  # noqa: ARG001
    """What an adapter loads: the user's model as it is, which every runtime of a run has to read.

    Args:
        adapter: Adapter that is going to load it.
        source: What the user gave: a path or a framework's object.
        example: The first batch of the user's data, where there are data.
    """
    return source
