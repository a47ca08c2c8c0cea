"""Which ops disturb the outputs most, from few candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from autotune.tuning.sensitivity import sensitivities


class Groups:
    """Counts what is measured; the errors of ops add up.

    Args:
        errors: By op; infinite for one that cannot be quantized.
        budget: How many measurements there is time for.
    """

    def __init__(self, errors: dict[str, float], budget: float = math.inf) -> None:
        self.errors, self.budget = errors, budget
        self.measured: list[tuple[str, ...]] = []

    def error_of(self, ops: Sequence[str]) -> float:
        self.measured.append(tuple(ops))
        return sum(self.errors[op] for op in ops)

    def affordable(self, count: int) -> bool:
        return len(self.measured) + count <= self.budget

    def __call__(self) -> dict[str, float]:
        return sensitivities(list(self.errors), self.error_of, self.affordable)


def many(harmful: dict[int, float], ops: int = 512) -> dict[str, float]:
    return {f"op_{i}": harmful.get(i, 1e-9) for i in range(ops)}


def test_each_op_is_measured_alone_where_there_is_time() -> None:
    groups = Groups({"a": 0.1, "b": 0.4, "c": 0.0})
    assert groups() == groups.errors
    assert groups.measured[1:] == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("harmful", [{7: 1.0}, {0: 0.2, 511: 0.8}, {100: 0.3, 101: 0.3, 300: 0.4}])
def test_a_few_harmful_ops_among_many_take_a_logarithm_each(harmful: dict[int, float]) -> None:
    groups = Groups(many(harmful), budget=511)
    found = groups()
    assert len(groups.measured) <= 1 + 2 * 9 * len(harmful)
    for index, error in harmful.items():
        assert found[f"op_{index}"] == pytest.approx(error, rel=0.01)
    assert sum(found.values()) == pytest.approx(sum(groups.errors.values()), rel=0.01)


def test_an_op_that_fails_is_found_as_well() -> None:
    groups = Groups(many({33: math.inf}), budget=100)
    found = groups()
    assert [op for op, error in found.items() if math.isinf(error)] == ["op_33"]


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 8, 20])
def test_whenever_the_time_is_up_every_op_has_its_share(budget: int) -> None:
    groups = Groups(many({300: 1.0}), budget=budget)
    found = groups()
    assert len(groups.measured) <= budget
    assert list(found) == list(groups.errors)
    assert sum(found.values()) == pytest.approx(1.0, rel=1e-3)
    # The more time, the smaller the group that the harmful op is known to be in; some is left for what follows.
    blamed = [int(op[3:]) for op, error in found.items() if error > 1e-6]
    assert 300 in blamed
    assert max(blamed) - min(blamed) < 512 / 2 ** max((budget - 5) // 2, 0)


def test_of_ops_that_were_not_told_apart_those_next_to_the_outputs_and_inputs_are_suspected() -> None:
    found = list(Groups(many({300: 1.0}), budget=1)().values())
    least = found.index(min(found))
    assert found[:least] == sorted(found[:least], reverse=True)
    assert found[least:] == sorted(found[least:])
    last, first, between = np.mean(found[-30:]), np.mean(found[:30]), np.mean(found[30:-30])
    assert last > 3 * first > 10 * between


def test_what_an_op_disturbs_by_itself_says_how_suspect_it_is() -> None:
    ops = [f"op_{i}" for i in range(64)]
    local = dict.fromkeys(ops, 0.001) | {"op_40": 0.9, "op_20": 0.0}
    del local["op_30"]
    found = sensitivities(ops, lambda _: 1.0, lambda count: count <= 1, local)
    assert sum(found.values()) == pytest.approx(1.0)
    assert max(found, key=lambda op: found[op]) == "op_40"
    # An op in which calibration saw no noise is not free of it, and one that it said nothing of is as usual.
    assert 0 < found["op_20"] < 0.1 * found["op_21"]
    assert found["op_29"] < found["op_31"] * 1.2
    assert found["op_30"] == pytest.approx(np.mean([found["op_29"], found["op_31"]]), rel=0.05)


def test_what_one_op_destroys_does_not_hide_what_others_disturb() -> None:
    errors = many({500: 0.7, 100: 1e-3, 300: 2e-3})
    found = Groups(errors, budget=120)()
    for index in (100, 300, 500):
        assert found[f"op_{index}"] == pytest.approx(errors[f"op_{index}"], rel=0.01)


def test_the_suspect_half_is_not_measured_where_the_other_one_causes_next_to_nothing() -> None:
    groups = Groups(many({511: 1.0}, ops=512), budget=500)
    assert groups()["op_511"] == pytest.approx(1.0, rel=1e-3)
    assert len(groups.measured) == 1 + 9


def test_nothing_is_measured_of_no_ops() -> None:
    groups = Groups({})
    assert groups() == {}
    assert not groups.measured
