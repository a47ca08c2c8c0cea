"""Limits of a model's speed and size, under which the most accurate model is searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from autotune.criterion import Interval, Verdict
from autotune.errors import InputError
from autotune.trial import Measurement

_UNITS = {"latency_ms": "a number of milliseconds", "speedup": "a number", "size_bytes": "a number of bytes"}


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Limits that a model must keep where accuracy is the objective; all of those that are given count.

    Attributes:
        latency_ms: The largest latency of one call, in milliseconds.
        speedup: The least speed, as a multiple of fp32's.
        size_bytes: The largest size of the serialized model, in bytes.
    """

    latency_ms: float | None = None
    speedup: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        given = dataclasses.asdict(self)
        if all(value is None for value in given.values()):
            raise InputError("`constraints` must have one of latency_ms, speedup and size_bytes, but has none")
        for name, value in given.items():
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf")
            ):
                raise InputError(f"`constraints.{name}` must be {_UNITS[name]} above 0, but got {value!r}")

    @property
    def of_speed(self) -> bool:
        """Whether speed is limited, and not size alone."""
        return self.latency_ms is not None or self.speedup is not None

    def least_speedup(self, baseline_ms: float | None) -> float | None:
        """The least speed as a multiple of fp32's; None where none is asked for, or fp32's latency is not known."""
        least = [] if self.speedup is None else [self.speedup]
        if self.latency_ms is not None and baseline_ms is not None:
            least.append(baseline_ms / self.latency_ms)
        return max(least, default=None)

    def verdict(self, measured: Measurement) -> Verdict:
        """Whether figures keep the limits: undecided where the interval of the speed holds one."""
        if self.size_bytes is not None and (measured.size_bytes is None or measured.size_bytes > self.size_bytes):
            return Verdict.MISSED
        least = self.least_speedup(measured.fp32_latency_ms)
        if not self.of_speed:
            return Verdict.MET
        if least is None or measured.speedup is None:
            return Verdict.UNDECIDED
        interval = measured.speedup_interval or Interval(low=measured.speedup, high=measured.speedup)
        if interval.low >= least:
            return Verdict.MET
        return Verdict.MISSED if interval.high < least else Verdict.UNDECIDED

    def to_json(self) -> dict[str, Any]:
        """The limits that are given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        parts = [] if self.latency_ms is None else [f"at most {self.latency_ms:.4g} ms"]
        parts += [] if self.speedup is None else [f"at least {self.speedup:.4g}x as fast as fp32"]
        parts += [] if self.size_bytes is None else [f"at most {self.size_bytes:,} bytes"]
        return " and ".join(parts)
