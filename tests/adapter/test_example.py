"""The first batch of a loader, as an adapter gets it that has to trace a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.adapter import Example
from autotune.errors import DataError

ONE, TWO = np.zeros((2, 3), np.float32), np.ones((2, 4), np.float32)
LABELS = np.array([0, 1])


@pytest.mark.parametrize(
    ("item", "inputs", "expected"),
    [
        (ONE, 1, (ONE,)),
        ((ONE, LABELS), 1, (ONE,)),
        ([ONE], 1, (ONE,)),
        ((ONE, TWO), 2, (ONE, TWO)),
        (((ONE, TWO), LABELS), 2, (ONE, TWO)),
        ({"x": ONE, "y": TWO}, 2, {"x": ONE, "y": TWO}),
        (({"x": ONE}, LABELS), 1, {"x": ONE}),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 1, (np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),)),
    ],
)
def test_inputs_come_without_labels_by_name_or_in_order(item: object, inputs: int, expected: Any) -> None:
    found: Any = Example([item, None]).arrays(inputs)
    assert type(found) is type(expected)
    assert not isinstance(found, dict) or list(found) == list(expected)
    values = (each.values() if isinstance(each, dict) else each for each in (found, expected))
    for array, wanted in zip(*values, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_data_is_read_when_it_is_asked_for_and_no_more_than_one_batch() -> None:
    read: list[int] = []

    class Loader:
        def __iter__(self) -> Any:
            for index in range(3):
                read.append(index)
                yield ONE

    example = Example(Loader())
    assert not read
    example.arrays(1)
    assert read == [0]


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        Example([]).arrays(1)
