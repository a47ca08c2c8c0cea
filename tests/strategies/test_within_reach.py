"""Choices that are made by the output errors of whole choices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from autotune.strategies.program import Flags
from autotune.strategies.reach import prefix, within_reach

OPS = 200


class Interacting:
    """Every one of a few ops ruins the outputs as long as it is in int8; groups say nothing of the single ones."""

    def __init__(self, needed: set[int], budget: float = math.inf) -> None:
        self.needed, self.budget, self.measured = needed, budget, 0

    def __call__(self, choice: Flags) -> float:
        if self.measured >= self.budget:
            return math.nan
        self.measured += 1
        return 0.4 if self.needed - set(np.flatnonzero(choice).tolist()) else 1e-5 * float((~choice).sum())


def find(errors: Callable[[Flags], float], tolerable: float = 0.01) -> Flags | None:
    return within_reach(list(range(OPS)), np.ones(OPS), errors, tolerable)


@pytest.mark.parametrize("needed", [{0}, {3, 17}, {0, 100, 150}])
def test_what_interacts_is_left_alone_and_most_of_the_rest_is_quantized(needed: set[int]) -> None:
    errors = Interacting(needed)
    found = find(errors)
    assert found is not None
    assert needed <= set(np.flatnonzero(found).tolist())
    # At most a part of the prefix for each op that is needed.
    assert found.sum() <= 1 + len(needed) * math.ceil(max(needed) / 8 + 1)
    assert errors.measured <= math.log2(OPS) + 3 + 8


def test_nothing_is_found_where_every_op_ruins_the_outputs() -> None:
    assert find(Interacting(set(range(OPS)))) is None


@pytest.mark.parametrize("budget", range(12))
def test_whatever_the_time_nothing_is_found_that_was_not_measured(budget: int) -> None:
    errors = Interacting({3, 17}, budget)
    found = find(errors)
    assert found is None or {3, 17} <= set(np.flatnonzero(found).tolist())


def test_a_prefix_is_the_first_steps_of_an_order() -> None:
    assert prefix([2, 0, 1], 2).tolist() == [True, False, True]
