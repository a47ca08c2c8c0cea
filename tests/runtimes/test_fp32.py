"""Which runtime's fp32 is the baseline, by scripted times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autotune.errors import DeadlineReached
from autotune.evaluation import LatencyOptions
from autotune.runtimes.fp32 import Fp32Speeds, compare_fp32
from tests.evaluation.latency.scripted import Models, ScriptedClock

OPTIONS = LatencyOptions(warmup=1, min_pairs=10, max_pairs=30)


class Model:
    size_bytes = 1

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds


class Scripted:
    """Runners that take what their model says, with noise."""

    def __init__(self, noise: float) -> None:
        self._models = Models(noise=noise)

    def runner(self, model: Model, execution: Any) -> Callable[[Any], float]:  # noqa: ARG002
        call = self._models.session(model.milliseconds)
        return lambda _feeds: call()


def compare(times: Mapping[str, float], *, noise: float = 0.01, deadline: float | None = None) -> Fp32Speeds:
    models: Any = {name: Model(milliseconds) for name, milliseconds in times.items()}
    adapter: Any = Scripted(noise)
    return compare_fp32(adapter, models, [{}], OPTIONS, seed=0, deadline=deadline, clock=ScriptedClock())


def test_the_fastest_runtime_is_the_baseline_wherever_it_is_named() -> None:
    for times in ({"a": 2.0, "b": 1.0}, {"b": 1.0, "a": 2.0}):
        found = compare(times)
        assert (found.baseline, found.proven) == ("b", True)
        assert found.speeds["b"] == 1.0
        assert found.speeds["a"] == pytest.approx(0.5, rel=0.03)


def test_of_several_that_are_faster_than_the_first_the_fastest_counts() -> None:
    found = compare({"a": 3.0, "b": 2.0, "c": 1.0})
    assert found.baseline == "c"
    assert found.speeds == pytest.approx({"a": 1 / 3, "b": 0.5, "c": 1.0}, rel=0.03)
    assert str(found).startswith("The baseline is fp32 on c; the speed of fp32 is 0.33x on a, 0.50x on b")


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_where_it_cannot_be_told_the_first_named_counts_and_that_is_said(names: str) -> None:
    found = compare(dict.fromkeys(names, 1.0), noise=0.6)
    assert (found.baseline, found.proven) == (names[0], False)
    assert "the first named counts" in str(found)


def test_one_runtime_alone_needs_no_comparison() -> None:
    found = compare({"a": 1.0}, deadline=-1.0)
    assert found == Fp32Speeds(baseline="a", speeds={"a": 1.0})
    assert str(found) == "The baseline is fp32 on a"


def test_the_time_may_be_up() -> None:
    with pytest.raises(DeadlineReached):
        compare({"a": 1.0, "b": 1.0}, deadline=-1.0)


def test_the_figures_survive_the_history() -> None:
    found = compare({"a": 2.0, "b": 1.0})
    assert Fp32Speeds.from_json(found.to_json()) == found
