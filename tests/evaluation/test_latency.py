from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from autotune.errors import DeadlineReached, InputError
from autotune.evaluation import LatencyOptions, compare_latency, race_latency
from autotune.evaluation.latency import speedup_interval


def busy(milliseconds: float) -> Callable[[], object]:
    """Computes for a given time: sleeping depends on the scheduler."""

    def run() -> None:
        end = time.perf_counter() + milliseconds / 1e3
        while time.perf_counter() < end:
            pass

    return run


QUICK = LatencyOptions(warmup=2, min_pairs=20, max_pairs=60, max_seconds=3.0)


def test_a_model_half_as_slow_is_twice_as_fast() -> None:
    found = compare_latency(busy(1.0), busy(0.5), QUICK, seed=0)
    assert found.speedup == pytest.approx(2.0, rel=0.1)
    assert found.interval.low <= found.speedup <= found.interval.high
    assert found.baseline_ms / found.candidate_ms == pytest.approx(found.speedup)
    assert 20 <= found.pairs <= 60
    assert found.baseline_percentiles.p50_ms <= found.baseline_percentiles.p90_ms <= found.baseline_percentiles.p99_ms


def test_pairs_are_interleaved_in_both_orders_after_the_warm_up() -> None:
    calls: list[str] = []
    options = LatencyOptions(warmup=3, min_pairs=20, max_pairs=20)
    compare_latency(lambda: calls.append("a"), lambda: calls.append("b"), options, seed=0)
    timed = calls[6:]
    pairs = {tuple(timed[i : i + 2]) for i in range(0, len(timed), 2)}
    assert calls[:6] == ["a", "b"] * 3
    assert pairs == {("a", "b"), ("b", "a")}


def test_more_pairs_are_drawn_until_the_interval_is_narrow() -> None:
    generator = np.random.default_rng(0)

    def noisy() -> None:
        busy(float(generator.uniform(0.02, 0.3)))()

    found = compare_latency(noisy, noisy, LatencyOptions(warmup=0, min_pairs=10, max_pairs=80, max_seconds=5.0))
    assert found.pairs == 80
    assert not found.decided


def test_time_runs_out_before_the_interval_is_narrow() -> None:
    started = time.monotonic()
    found = compare_latency(busy(20), busy(20), LatencyOptions(warmup=10, max_seconds=0.3))
    assert 5 <= found.pairs < 30
    assert time.monotonic() - started < 2.0


def test_a_deadline_ends_a_comparison() -> None:
    with pytest.raises(DeadlineReached):
        compare_latency(busy(5), busy(5), QUICK, deadline=time.monotonic() - 1)
    many = LatencyOptions(warmup=0, min_pairs=1000, max_pairs=1000, max_seconds=None)
    found = compare_latency(busy(5), busy(5), many, deadline=time.monotonic() + 1.0)
    assert 5 <= found.pairs < 1000


def test_the_garbage_collector_waits_and_comes_back() -> None:
    seen = []
    compare_latency(lambda: seen.append(gc.isenabled()), lambda: None, LatencyOptions(warmup=0, max_pairs=30))
    assert not any(seen)
    assert gc.isenabled()


def test_a_race_orders_finalists() -> None:
    result = race_latency(busy(1.0), [busy(0.6), busy(0.3), busy(0.9)], QUICK, seed=0)
    assert result.order == (1, 0, 2)
    assert result.decided
    assert result.speedups[1] == pytest.approx(3.3, rel=0.15)
    assert result.rounds[2] <= result.rounds[1]


def test_a_race_of_one_and_of_none() -> None:
    assert race_latency(busy(0.1), [busy(0.1)], QUICK).order == (0,)
    with pytest.raises(InputError, match="at least one finalist"):
        race_latency(busy(0.1), [], QUICK)


def test_blocks_widen_the_interval_of_bursts() -> None:
    """Disturbances that last for many calls leave fewer independent pairs than there are."""
    generator = np.random.default_rng(0)
    base = 1 + 0.01 * generator.standard_normal(200)
    burst = np.repeat(generator.random(20) < 0.5, 10) * 0.5
    alone, alone_interval = speedup_interval(base, base + 0.01 * generator.standard_normal(200), 0.95, seed=0)
    _, burst_interval = speedup_interval(base + burst, base + 0.01 * generator.standard_normal(200), 0.95, seed=0)
    assert alone == pytest.approx(1.0, abs=0.02)
    assert burst_interval.high - burst_interval.low > 3 * (alone_interval.high - alone_interval.low)


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
    ],
)
def test_options_state_their_rules(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatencyOptions(**options)  # type: ignore[arg-type]
