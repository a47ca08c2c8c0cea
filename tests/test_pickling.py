"""Objects sent to other processes: closures go, and objects that belong to one process are named."""

from __future__ import annotations

import threading
from typing import Any

import cloudpickle
import pytest

from autotune.errors import InputError
from autotune.pickling import pickled


class Holding:
    """Holds what no other process can have."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def send(parts: dict[str, Any]) -> bytes:
    return pickled(parts, parts, why="A worker gets a copy", way_out="go without", error=InputError)


def test_a_closure_is_sent() -> None:
    factor = 3
    assert cloudpickle.loads(send({"function": lambda x: factor * x}))["function"](2) == 6


def test_what_cannot_be_sent_is_named_with_a_way_out() -> None:
    with pytest.raises(InputError) as caught:
        send({"the data": [1, 2], "the adapter": Holding()})
    message = str(caught.value)
    for part in ("A worker gets a copy, so that the adapter (a Holding) must be picklable", "lock", "or go without"):
        assert part in message
