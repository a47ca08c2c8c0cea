"""The order of turns, and when a runtime cannot win any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from autotune.config import QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.runtimes.probes import Probe, uniform
from autotune.runtimes.turns import MARGIN, Turns
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.side import Side
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.runtimes.toys import DYNAMIC


def side(runtime: str, fp32_speed: float = 1.0) -> Side[Any]:
    nothing: Any = None
    return Side(
        runtime=runtime, given=nothing, model=nothing, differs=False, statistics=nothing, problem=nothing,
        fp32_speed=fp32_speed,
    )  # fmt: skip


def trial(number: int, runtime: str | None, speedup: float, *, met: bool = True) -> Trial:
    ops = {} if runtime is None else {"op": DYNAMIC}
    interval = Interval(low=speedup * 0.99, high=speedup * 1.01, confidence=0.95)
    verdict = Verdict.MET if met else Verdict.MISSED
    return Trial(
        number=number,
        config=QuantizationConfig(ops=ops, runtime=runtime),
        state=TrialState.COMPLETED,
        measurement=Measurement(speedup=speedup, speedup_interval=interval, verdict=verdict, loss=0.0),
    )


FP32 = trial(0, None, 1.0)


def turns(probes: dict[str | None, float], notes: list[str] | None = None) -> Turns[Any]:
    found = {name: [Probe(what="all", speedup=speed, high=speed * 1.01)] for name, speed in probes.items()}
    sides = [side(str(name), 0.5) for name in probes]
    return Turns(sides, found, Objective.LATENCY, (notes if notes is not None else []).append)


def order(of: Turns[Any], trials: Sequence[Trial]) -> str | None:
    following = of.next(trials)
    return None if following is None else following.runtime


def test_turns_are_a_function_of_the_trials() -> None:
    trials = [FP32]
    assert order(turns({"a": 2.0, "b": 2.1}), trials) == "b"
    trials.append(trial(1, "b", 2.1, met=False))
    assert order(turns({"a": 2.0, "b": 2.1}), trials) == "a"
    trials.append(trial(2, "a", 2.0, met=False))
    assert order(turns({"a": 2.0, "b": 2.1}), trials) == "b"


def test_a_side_that_is_exhausted_has_no_more_turns() -> None:
    running = turns({"a": 2.0, "b": 2.0})
    first = running.next([FP32])
    assert first is not None
    running.end(first, "that was all")
    assert order(running, [FP32]) == "b"
    last = running.next([FP32])
    assert last is not None
    running.end(last, "nothing left")
    assert order(running, [FP32]) is None
    assert running.reason == "a: that was all; b: nothing left"


@pytest.mark.parametrize(("speed", "given_up"), [(2.0 / (1 + MARGIN) / 1.01 * 1.02, False), (1.4, True)])
def test_a_side_is_given_up_below_the_margin(speed: float, given_up: bool) -> None:
    notes: list[str] = []
    running = turns({"a": 2.0, "b": speed}, notes)
    trials = [FP32, trial(1, "a", 2.0 / 0.99)]
    assert order(running, trials) == ("a" if given_up else "b")
    assert bool(notes) is given_up
    if given_up:
        assert notes[0].startswith("b was given up after 0 trials: its fastest candidate is at most 1.41x as fast as")
        assert "trial 1 on a keeps the target at 2.02x" in notes[0]


def test_the_margin_shrinks_with_trials_of_the_side_itself() -> None:
    leader = trial(1, "a", 2.0 / 0.99)
    slower = trial(2, "b", 1.7)
    assert order(turns({"a": 2.0, "b": 1.7}), [FP32, leader]) == "b"
    later = [FP32, leader, slower, trial(3, "a", 1.9)]
    assert order(turns({"a": 2.0, "b": 1.7}), later) == "a"


def test_nothing_is_given_up_while_nothing_keeps_the_target() -> None:
    trials = [FP32, trial(1, "a", 4.0, met=False)]
    assert order(turns({"a": 4.0, "b": 1.7}), trials) == "b"


def test_a_side_of_which_nothing_was_timed_is_not_given_up() -> None:
    sides = [side("a", 0.5), side("b", 0.5)]
    probes: dict[str | None, list[Probe]] = {"a": [Probe(what="all", speedup=2.0, high=2.0)], "b": []}
    running: Turns[Any] = Turns(sides, probes, Objective.LATENCY, print)
    assert order(running, [FP32, trial(1, "a", 2.0)]) == "b"
    failed = Trial(
        number=2, config=QuantizationConfig(ops={"op": DYNAMIC}, runtime="b"), state=TrialState.FAILED, reason="x"
    )
    assert order(running, [FP32, trial(1, "a", 2.0), failed, trial(3, "a", 2.0)]) == "b"


def test_the_side_that_may_be_the_fastest_is_never_given_up() -> None:
    assert order(turns({"a": 0.5, "b": 0.4}), [FP32]) == "a"


def test_a_trial_that_is_faster_than_all_probes_counts() -> None:
    trials = [FP32, trial(1, "a", 3.0), trial(2, "b", 2.9)]
    assert order(turns({"a": 3.0, "b": 1.0}), [*trials, trial(3, "a", 2.0)]) == "b"


def test_probes_are_uniform_configs_each_once(network: NumpyModel) -> None:
    space = NumpyAdapter().space(network)
    found = dict(uniform(space))
    assert list(found) == ["every op as preferred", "every op that can be in int8_dynamic"]
    assert all(len(config.ops) == 4 for config in found.values())
    nothing = dataclasses.replace(space, ops=())
    assert not dict(uniform(nothing))
