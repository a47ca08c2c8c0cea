from __future__ import annotations

from typing import Any

import pytest

from autotune.constraints import Constraints
from autotune.criterion import Interval, Verdict
from autotune.errors import InputError
from autotune.trial import Measurement


def measured(low: float, high: float, **figures: Any) -> Measurement:
    speedup = (low + high) / 2
    return Measurement(
        **{
            "speedup": speedup,
            "speedup_interval": Interval(low=low, high=high),
            "baseline_ms": 10.0,
            "latency_ms": 10.0 / speedup,
            "size_bytes": 100,
            **figures,
        }
    )


@pytest.mark.parametrize(
    ("limits", "figures", "verdict"),
    [
        (Constraints(speedup=2.0), measured(2.0, 2.2), Verdict.MET),
        (Constraints(speedup=2.0), measured(1.9, 2.2), Verdict.UNDECIDED),
        (Constraints(speedup=2.0), measured(1.8, 1.99), Verdict.MISSED),
        (Constraints(latency_ms=5.0), measured(2.0, 2.2), Verdict.MET),
        (Constraints(latency_ms=5.0), measured(1.9, 2.2), Verdict.UNDECIDED),
        (Constraints(latency_ms=4.0), measured(2.0, 2.2), Verdict.MISSED),
        (Constraints(size_bytes=100), measured(0.5, 0.6), Verdict.MET),
        (Constraints(size_bytes=99), measured(5.0, 6.0), Verdict.MISSED),
        (Constraints(size_bytes=99, speedup=2.0), measured(5.0, 6.0), Verdict.MISSED),
        (Constraints(size_bytes=100, speedup=2.0), measured(1.0, 1.5), Verdict.MISSED),
        (Constraints(speedup=2.0, latency_ms=4.0), measured(2.1, 2.2), Verdict.MISSED),
        (Constraints(speedup=2.0), Measurement(size_bytes=10), Verdict.UNDECIDED),
        (Constraints(speedup=2.0), Measurement(speedup=2.5), Verdict.MET),
    ],
)
def test_all_limits_must_be_kept(limits: Constraints, figures: Measurement, verdict: Verdict) -> None:
    assert limits.verdict(figures) is verdict


def test_a_latency_is_a_speed_beside_fp32() -> None:
    assert Constraints(latency_ms=4.0, speedup=2.0).least_speedup(10.0) == 2.5
    assert Constraints(latency_ms=4.0).least_speedup(None) is None
    assert not Constraints(size_bytes=5).of_speed


def test_json_and_words() -> None:
    limits = Constraints(latency_ms=4.0, size_bytes=2_000_000)
    assert Constraints.from_json(limits.to_json()) == limits
    assert limits.to_json() == {"latency_ms": 4.0, "size_bytes": 2_000_000}
    assert str(limits) == "at most 4 ms and at most 2,000,000 bytes"


@pytest.mark.parametrize(
    "values",
    [{}, {"speedup": 0}, {"latency_ms": -1.0}, {"size_bytes": float("inf")}, {"speedup": "2"}, {"speedup": True}],
)
def test_what_is_no_limit_is_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="`constraints"):
        Constraints(**values)
