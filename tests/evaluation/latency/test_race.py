"""Races on scripted clocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from autotune.errors import DeadlineReached, InputError
from autotune.evaluation import LatencyOptions, RaceResult, race_latency
from tests.evaluation.latency.scripted import Models, ScriptedClock


def race(
    milliseconds: Sequence[float],
    *,
    seed: int = 0,
    fp32: float = 2.0,
    models: Models | None = None,
    fair_s: float | None = None,
    deadline: float | None = None,
    **options: Any,
) -> RaceResult:
    models = models or Models(seed=seed)
    finalists = [models.sessions(each, name=f"{index}/") for index, each in enumerate(milliseconds)]
    return race_latency(
        models.sessions(fp32, name="fp32/"),
        finalists,
        LatencyOptions(**options),
        seed=seed,
        clock=ScriptedClock(),
        fair_s=fair_s,
        deadline=deadline,
    )


def test_a_race_orders_finalists_and_its_figures_agree() -> None:
    result = race([1.2, 0.6, 1.8])
    assert result.order == (1, 0, 2)
    assert result.survivors == (1,)
    assert result.tied == [1]
    assert result.decided
    assert result.faster == (True, True, True)
    assert result.rounds[2] <= result.rounds[1]
    assert result.sessions == 3
    for speedup, interval, latency_ms, truth in zip(
        result.speedups, result.intervals, result.latencies_ms, (2 / 1.2, 2 / 0.6, 2 / 1.8), strict=True
    ):
        assert speedup == pytest.approx(truth, rel=0.02)
        assert interval.low <= speedup <= interval.high
        assert result.baseline_ms / latency_ms == pytest.approx(speedup, rel=1e-12)


def test_who_is_proven_slower_is_no_survivor_and_comes_last() -> None:
    """20 races with one that is 4 % slower: where the race dropped it, it is not among those that are as fast."""
    dropped = 0
    for seed in range(20):
        result = race([1.0, 1.04, 1.0], seed=seed)
        gone = set(range(3)) - set(result.survivors)
        dropped += 1 in gone
        assert gone <= {1}
        assert list(result.order[: len(result.survivors)]) == list(result.survivors)
        assert set(result.order) == {0, 1, 2}
    assert dropped >= 18


def alternating(low: float, high: float) -> Callable[[], float]:
    """A session whose blocks take one time and another in turn, so that little is proven of it."""
    calls = itertools.count(-1)  # after one call of warm-up, nine per block
    return lambda: high if next(calls) // 9 % 2 else low


def test_who_leaves_is_slower_than_any_other_not_only_than_the_fastest() -> None:
    """Nothing is proven of the one that is fastest by its median; the last is proven slower than the second."""
    models = Models(noise=0.0)
    finalists = [[alternating(0.5, 1.2)], [models.session(1.0)], [models.session(1.1)]]
    options = LatencyOptions(warmup=0, max_pairs=30)
    result = race_latency([models.session(2.0)], finalists, options, clock=ScriptedClock())
    assert result.speedups[0] > result.speedups[1]
    assert result.order == (*result.survivors, 2) == (0, 1, 2)


def test_who_stayed_comes_before_who_was_proven_slower_at_the_last_look() -> None:
    """The first is proven slower than the second. The last looks slower still, and nothing is proven of it."""
    models = Models(noise=0.0)
    finalists = [[models.session(1.03)], [models.session(1.0)], [alternating(0.8, 1.4)]]
    options = LatencyOptions(warmup=0, max_pairs=30)
    result = race_latency([models.session(2.0)], finalists, options, clock=ScriptedClock())
    assert result.speedups[1] > result.speedups[0] > result.speedups[2]
    assert len(set(result.rounds)) == 1
    assert result.survivors == (1, 2)
    assert result.order == (1, 2, 0)


def test_who_left_comes_last_although_fp32_was_slower_then() -> None:
    """The first leaves in the first heat; fp32 is faster after that, so that the others' speedups are smaller."""
    clock, models = ScriptedClock(), Models(noise=0.0)

    def fp32() -> float:
        return 2.0 if clock.now < 0.25 else 1.7

    finalists = [[models.session(1.0)], [models.session(0.9)], [alternating(0.8, 1.0)]]
    options = LatencyOptions(min_pairs=40, warmup=0, interval_width=0.001)
    result = race_latency([fp32], finalists, options, clock=clock)
    assert result.rounds[0] < result.rounds[1]
    assert result.speedups[0] > max(result.speedups[1:])
    assert set(result.survivors) == {1, 2}
    assert result.order[-1] == 0


def test_the_confidence_is_shared_among_all_comparisons() -> None:
    """Without noise the interval is what sessions are taken to differ by, and its width tells the confidence.

    1.39 % apart is proven at 95 %, 1.96 % at the confidence of a race of two (nine comparisons: three pairs, fp32's
    among them, at three looks), 2.22 % at that of a race of four (thirty).
    """

    def survivors(*milliseconds: float) -> set[int]:
        models = Models(noise=0.0)
        finalists = [[models.session(each)] for each in milliseconds]
        return set(race_latency([models.session(2.0)], finalists, LatencyOptions(), clock=ScriptedClock()).survivors)

    assert survivors(1.0, 1.018) == {0, 1}
    assert survivors(1.0, 1.021) == {0}
    assert survivors(1.0, 1.021, 1.0, 1.0) == {0, 1, 2, 3}
    assert survivors(1.0, 1.024, 1.0, 1.0) == {0, 2, 3}


def test_a_gain_over_fp32_is_proven_at_that_confidence_too() -> None:
    def faster(*milliseconds: float) -> tuple[bool | None, ...]:
        models = Models(noise=0.0)
        finalists = [[models.session(each)] for each in milliseconds]
        return race_latency([models.session(2.0)], finalists, LatencyOptions(), clock=ScriptedClock()).faster

    assert faster(2.0 / 1.018, 2.0 / 1.021) == (None, True)
    assert faster(2.0 / 1.021, 2.0, 2.0, 2.0)[0] is None


def test_equals_survive() -> None:
    """Thirty races of three equals in sessions that differ: more than four are wrong with a probability of 1.6 %."""
    wrong = 0
    for seed in range(30):
        models = Models(seed=seed, spread=0.02)
        wrong += len(race([1.0] * 3, seed=seed, models=models, min_pairs=20, max_pairs=20).survivors) < 3
    assert wrong <= 4


def test_what_is_not_faster_than_fp32_is_said_so() -> None:
    assert race([3.0]).faster == (False,)
    same = race([2.0], models=Models(noise=0.002))
    assert same.faster == (False,)  # an equal that is known well is not faster by more than the asked width
    unsure = race([1.9], models=Models(noise=0.6), max_pairs=30)
    assert unsure.faster == (None,)
    assert not unsure.decided


def test_a_long_heat_decides_what_a_short_one_did_not() -> None:
    """2 % need more rounds than 30 calls of each, and get them."""
    short = race([1.0, 1.02], models=Models(noise=0.05), max_pairs=30)
    long = race([1.0, 1.02], models=Models(noise=0.05))
    assert max(long.rounds) > 3 * max(short.rounds)
    assert len(short.survivors) == 2
    assert not short.decided


def test_equals_are_told_apart_for_a_fair_price_and_the_side_of_fp32_at_any() -> None:
    """Finalists that a second's work leaves equal are of one speed for all that a user notices."""
    models = Models(noise=0.3)
    unlimited = race([1.0, 1.01], models=models)
    fair = race([1.0, 1.01], models=models, fair_s=0.001)
    assert not unlimited.decided
    assert max(unlimited.rounds) > 3 * max(fair.rounds)
    assert fair.faster == (True, True)
    assert len(fair.survivors) == 2
    unsure = race([1.9], models=models, fair_s=0.001)
    assert max(unsure.rounds) > 3 * max(fair.rounds)


def test_a_race_near_the_deadline_runs_shorter_blocks() -> None:
    """Five rounds of whole blocks take 8 s with three models of 40 ms, of single calls 1.5 s."""
    found = race([20.0, 21.0], fp32=40.0, warmup=1, deadline=3.0)
    assert found.faster == (True, True)
    with pytest.raises(DeadlineReached):
        race([20.0, 21.0], fp32=40.0, warmup=1, deadline=0.5)


def test_fp32_runs_in_every_round_of_a_race_with_all_of_its_sessions() -> None:
    models = Models()
    result = race([1.0, 2.0], models=models, warmup=0)
    runs = [models.log.count(f"fp32/{index}") for index in range(3)]
    assert runs[0] == runs[1] == runs[2] >= 9 * max(result.rounds)


def test_a_race_of_one_and_of_none() -> None:
    result = race([1.0])
    assert (result.order, result.survivors, result.decided) == ((0,), (0,), True)
    with pytest.raises(InputError, match="at least one finalist"):
        race([])
