"""Comparisons on scripted clocks; two tests at the end use the clock of this process, and assert no time."""

from __future__ import annotations

import gc
import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from autotune.errors import DeadlineReached, InputError
from autotune.evaluation import LatencyComparison, LatencyOptions, compare_latency
from autotune.evaluation.latency import Comparison, Pace, SystemClock
from autotune.evaluation.latency.contest import Block, Contest
from autotune.evaluation.latency.estimate import SINGLE_SESSION_SPREAD, Spread, ratio_of
from autotune.evaluation.latency.options import CacheState
from tests.evaluation.latency.scripted import Models, ScriptedClock

OPTIONS = LatencyOptions()


def half_width(found: LatencyComparison) -> float:
    return (found.interval.high - found.interval.low) / 2 / found.speedup


def test_a_model_half_as_slow_is_twice_as_fast_and_the_figures_agree() -> None:
    models = Models()
    found = compare_latency(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=ScriptedClock())
    assert found.speedup == pytest.approx(2.0, rel=0.01)
    assert found.interval.low <= 2.0 <= found.interval.high
    assert found.baseline_ms / found.candidate_ms == pytest.approx(found.speedup, rel=1e-12)
    assert found.candidate_ms == pytest.approx(1.014, rel=0.01)  # the noise only ever adds
    assert found.decided
    assert 30 <= found.pairs <= 240
    assert found.sessions == 3
    for each in (found.baseline_percentiles, found.candidate_percentiles):
        assert each.p50_ms <= each.p90_ms <= each.p99_ms


def test_warm_calls_come_in_blocks_in_turn_whose_first_calls_do_not_count() -> None:
    models = Models()
    timed: list[str] = []

    class Watching(ScriptedClock):
        def time(self, call):  # type: ignore[no-untyped-def]
            reading = super().time(call)
            timed.append(models.log[-1])
            return reading

    options = LatencyOptions(warmup=0, min_pairs=30, max_pairs=30)
    found = compare_latency(models.sessions(1.0, 2, "a"), models.sessions(1.0, 2, "b"), options, clock=Watching())
    blocks = [(name, len(list(group))) for name, group in itertools.groupby(models.log[4:])]
    whole = [name for name, length in blocks for _ in range(length // 9)]
    assert all(length % 9 == 0 for _, length in blocks)  # four that are discarded, five that count
    rounds = [whole[i : i + 4] for i in range(0, len(whole), 4)]
    assert all(sorted(each) == ["a0", "a1", "b0", "b1"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert len(timed) - 4 == 5 * len(whole)
    assert found.cache is CacheState.WARM


def test_cold_calls_come_one_by_one_in_turn() -> None:
    models = Models()
    options = LatencyOptions(warmup=0, min_pairs=20, max_pairs=20, cache="cold")
    found = compare_latency(models.sessions(1.0, 1, "a"), models.sessions(1.0, 1, "b"), options, clock=ScriptedClock())
    pairs = {tuple(models.log[i : i + 2]) for i in range(2, len(models.log), 2)}
    assert pairs == {("a0", "b0"), ("b0", "a0")}
    assert found.pairs == 20
    assert found.cache is CacheState.COLD


@pytest.mark.parametrize(("call_s", "calls"), [(0.001, 9), (0.01, 6), (0.05, 4), (1.0, 1)])
def test_long_calls_are_not_run_for_nothing(call_s: float, calls: int) -> None:
    block = Block.for_calls(call_s, CacheState.WARM)
    assert block.discarded + block.timed == calls
    assert Block.for_calls(call_s, CacheState.COLD) == Block(discarded=0, timed=1)


def test_blocks_are_shorter_where_the_time_would_not_do() -> None:
    """A hundred milliseconds a call: three timed ones in five rounds take four seconds, and there is one."""
    clock, models = ScriptedClock(), Models()
    options = replace(OPTIONS, max_seconds=1.0, warmup=2)
    found = compare_latency(models.session(100.0), models.session(50.0), options, clock=clock)
    assert found.pairs == 5
    assert clock.now < 1.3
    assert found.speedup == pytest.approx(2.0, rel=0.05)


def test_the_interval_holds_what_sessions_differ_by() -> None:
    """100 comparisons in new sessions; fewer than 90 intervals that hold the truth come by chance in 1.1 % of cases."""
    for spread in (0.0, 0.03):
        held, widths = 0, []
        for seed in range(100):
            models = Models(seed=seed, spread=spread)
            found = compare_latency(
                models.sessions(1.3), models.sessions(1.0), OPTIONS, seed=seed, clock=ScriptedClock()
            )
            held += found.interval.low <= 1.3 <= found.interval.high
            widths.append(half_width(found))
        assert held >= 90
        assert np.median(widths) < 0.02 + 3 * spread


def test_what_more_calls_cannot_narrow_takes_no_more_calls() -> None:
    models = Models(seed=1, spread=0.1)
    found = compare_latency(models.sessions(1.0), models.sessions(1.0), OPTIONS, clock=ScriptedClock())
    assert not found.decided
    assert found.pairs < 200


def test_one_session_each_differs_by_what_was_measured_elsewhere() -> None:
    models = Models(noise=0.0)
    found = compare_latency(models.session(1.0), models.session(1.0), OPTIONS, clock=ScriptedClock())
    assert math.log(found.interval.high) == pytest.approx(1.96 * SINGLE_SESSION_SPREAD * math.sqrt(2), rel=1e-3)
    assert found.decided


def test_more_calls_are_timed_until_the_interval_is_narrow() -> None:
    quiet, noisy = Models(noise=0.01), Models(noise=0.3)
    few = compare_latency(quiet.session(1.0), quiet.session(1.0), OPTIONS, clock=ScriptedClock())
    many = compare_latency(noisy.session(1.0), noisy.session(1.0), OPTIONS, clock=ScriptedClock())
    assert few.pairs < 50 < many.pairs
    capped = replace(OPTIONS, max_pairs=40)
    found = compare_latency(noisy.session(1.0), noisy.session(1.0), capped, clock=ScriptedClock())
    assert found.pairs == 40
    assert not found.decided


def test_drift_over_time_widens_the_interval() -> None:
    """A ratio that wanders from stretch to stretch is known less well than its calls are."""
    steady = np.log(np.array([[1.0, 1.01, 0.99, 1.0, 1.01, 0.99]]))
    wandering = np.log(np.array([[1.0, 1.1, 0.9, 1.0, 1.1, 0.9]]))
    candidate = np.zeros((1, 6))
    widths = [ratio_of(each, candidate, Spread({0: each}), 0.95).half_width for each in (steady, wandering)]
    assert widths[1] > 4 * widths[0]


def test_both_sides_being_slow_at_a_time_does_not() -> None:
    wandering = np.log(np.array([[1.0, 1.5, 0.8, 1.0, 1.2, 0.9]]))
    ratio = ratio_of(wandering + math.log(2), wandering, Spread({0: wandering}), 0.95)
    assert ratio.value == pytest.approx(2.0)
    assert ratio.half_width == pytest.approx(1.96 * SINGLE_SESSION_SPREAD * math.sqrt(2), rel=0.01)


def test_rounds_in_a_slow_spell_are_run_again() -> None:
    """For a while everything takes 1.5 times as long and the candidate twice: none of that is in the result."""
    clock = ScriptedClock()
    models = Models()
    calm = models.session(1.0)

    def candidate() -> float:
        return calm() * (1.3 if 0.2 < clock.now < 0.35 else 1.0)

    clock.slow = lambda now: 1.5 if 0.2 < now < 0.35 else 1.0
    found = compare_latency(models.sessions(2.0), [candidate] * 3, OPTIONS, clock=clock)
    assert clock.now > 0.35
    assert found.speedup == pytest.approx(2.0, rel=0.01)
    assert found.decided
    assert found.baseline_ms < 2.2


def test_a_comparison_wholly_in_a_slow_spell_is_wider() -> None:
    """fp32 takes 1.4 times what it took earlier in the run, from the first round to the last."""
    models, pace = Models(), Pace()
    calm = Comparison(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=ScriptedClock(), pace=pace)
    first = calm.run()
    calm.close()
    assert first.decided
    slow = ScriptedClock(slow=lambda _: 1.4)
    second = Comparison(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=slow, pace=pace).run()
    assert not second.decided
    assert half_width(second) > half_width(first) + 0.2 * math.log(1.4)
    again = Comparison(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=ScriptedClock(), pace=pace).run()
    assert again.decided


def test_a_machine_that_becomes_slow_within_a_comparison_widens_it_too() -> None:
    widths = []
    for factor in (1.0, 1.4):
        models = Models()
        clock = ScriptedClock(slow=lambda now, factor=factor: 1.0 if now < 0.12 else factor)  # type: ignore[misc]
        widths.append(half_width(compare_latency(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=clock)))
    assert widths[1] > widths[0] + 0.02


def test_a_comparison_is_taken_up_again_later() -> None:
    clock, models = ScriptedClock(), Models()
    comparison = Comparison(models.sessions(2.0), models.sessions(1.0), OPTIONS, clock=clock)
    first = comparison.run()
    clock.now += 60.0  # an evaluation of accuracy: it is none of the ten seconds of a comparison
    second = comparison.again()
    assert second.pairs == first.pairs + 3 * 3 * 5  # rounds, sessions, calls
    assert second.interval.low <= 2.0 <= second.interval.high


def test_time_runs_out_before_the_interval_is_narrow() -> None:
    clock, models = ScriptedClock(), Models(noise=0.5)
    found = compare_latency(models.session(20.0), models.session(20.0), replace(OPTIONS, max_seconds=0.5), clock=clock)
    assert 5 <= found.pairs < 30
    assert clock.now < 2.0
    assert not found.decided


def test_a_deadline_ends_a_comparison() -> None:
    models = Models(noise=0.5)
    with pytest.raises(DeadlineReached):
        compare_latency(models.session(5.0), models.session(5.0), OPTIONS, deadline=-1.0, clock=ScriptedClock())
    clock = ScriptedClock()
    many = LatencyOptions(warmup=0, min_pairs=1000, max_pairs=1000, max_seconds=None)
    found = compare_latency(models.session(5.0), models.session(5.0), many, deadline=1.0, clock=clock)
    assert 5 <= found.pairs < 1000
    assert clock.now < 1.5


def test_a_disturbed_call_is_run_again() -> None:
    disturbances = itertools.cycle([40.0, 0.0, 0.0])
    clock, models = ScriptedClock(disturb=lambda _: next(disturbances)), Models()
    found = compare_latency(models.session(2.0), models.session(1.0), OPTIONS, clock=clock)
    assert found.speedup == pytest.approx(2.0, rel=0.02)
    assert found.candidate_percentiles.p99_ms < 2.0


def test_the_garbage_collector_waits_and_comes_back() -> None:
    seen = []

    def call() -> float:
        seen.append(gc.isenabled())
        return 1.0

    contest = Contest([[call]], replace(OPTIONS, warmup=1), ScriptedClock(), seed=0, deadline=None)
    contest.warm_up()
    seen.clear()
    contest.run([0], 5)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_a_call_that_computes_takes_processor_time_and_one_that_waits_wall_time() -> None:
    clock = SystemClock(threads=1)

    def wait() -> None:
        time.sleep(0.02)

    def compute() -> None:
        sum(range(50_000))

    assert clock.time(wait).nanoseconds >= 20_000_000
    before = time.thread_time_ns()
    taken = clock.time(compute).nanoseconds
    assert 0 < taken <= time.thread_time_ns() - before or clock.time(compute).disturbed


def test_several_threads_are_timed_by_the_wall() -> None:
    assert SystemClock(threads=2).time(lambda: time.sleep(0.01)).nanoseconds >= 10_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads >= 1"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"min_pairs": 2}, "min_pairs >= 5"),
        ({"min_pairs": 50, "max_pairs": 40}, "min_pairs <= max_pairs"),
        ({"interval_width": 0.0}, "interval_width"),
        ({"confidence": 1.0}, "confidence"),
        ({"max_seconds": 0.0}, "max_seconds > 0"),
        ({"sessions": 0}, "sessions >= 1"),
        ({"cache": "lukewarm"}, "'warm', 'cold'"),
    ],
)
def test_options_state_their_rules(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatencyOptions(**options)  # type: ignore[arg-type]
