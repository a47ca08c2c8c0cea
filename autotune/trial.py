"""Trials: the config that was tried, and its measurement or the reason of its failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from autotune.config import QuantizationConfig
from autotune.criterion import Interval, Verdict

_LATER = frozenset({"throughput", "throughput_gain", "throughput_interval", "baseline_p90_ms", "baseline_p99_ms"})
"""Figures that a measurement had none of at first."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The figures of one candidate. One that was not needed is None: a slow candidate has no accuracy.

    Attributes:
        accuracy: The metric that the criterion judges, in its own unit, over ``samples`` samples.
        loss: Against the fp32 baseline, as the criterion defines it (a share for a relative criterion).
        loss_interval: Interval of the loss, where per-sample results are known.
        verdict: Whether the accuracy target is kept.
        metrics: All metrics, the judged one included.
        latency_ms: Median of one call.
        latency_p90_ms: Latency that 90 % of the calls stay under.
        latency_p99_ms: Latency that 99 % of the calls stay under.
        latency_decided: Whether the speedup's interval became as narrow as was asked for, or a race told a finalist
            from fp32; else the machine was too busy to tell within the time of one comparison.
        baseline_ms: Median of one call of fp32, timed in turn with those of ``latency_ms``: their quotient is
            the speedup. None in what earlier versions stored.
        baseline_p90_ms: Latency that 90 % of those calls of fp32 stay under.
        baseline_p99_ms: Latency that 99 % of them stay under.
        latency_cache: State of the processor's caches when a timed call began: ``warm`` in blocks of calls of one
            model, ``cold`` in calls in turn. None in what earlier versions stored, where it was ``cold``.
        latency_sessions: Sessions of the candidate that took part.
        speedup: Baseline over candidate, from interleaved runs.
        speedup_interval: Interval of the speedup, over time and over sessions.
        size_bytes: Size of the serialized model in bytes.
        peak_memory_bytes: Peak memory in bytes of the process that ran the candidate, where it had one of its own.
        samples: How many samples the accuracy comes from; None where the user's function kept it to itself.
        samples_total: How many a full evaluation has.
        rank: Which candidate of its search it was in the order of accuracy evaluations, from 1; a target with a
            ``confidence`` is judged by it. None where the verdict does not depend on it.
        throughput: Samples per second of all instances together, where throughput is the objective.
        throughput_gain: That over fp32's, measured in turns with it.
        throughput_interval: The slowest round over fp32's fastest, and the other way round.
    """

    accuracy: float | None = None
    loss: float | None = None
    loss_interval: Interval | None = None
    verdict: Verdict | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_decided: bool | None = None
    baseline_ms: float | None = None
    baseline_p90_ms: float | None = None
    baseline_p99_ms: float | None = None
    latency_cache: str | None = None
    latency_sessions: int | None = None
    speedup: float | None = None
    speedup_interval: Interval | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    samples: int | None = None
    samples_total: int | None = None
    rank: int | None = None
    throughput: float | None = None
    throughput_gain: float | None = None
    throughput_interval: Interval | None = None

    @property
    def fp32_latency_ms(self) -> float | None:
        """Latency of fp32 among the same calls: what the speedup compares with."""
        if self.latency_ms is None or self.speedup is None:
            return self.baseline_ms
        return self.latency_ms * self.speedup if self.baseline_ms is None else self.baseline_ms

    @property
    def complete(self) -> bool:
        """Whether its accuracy comes from all samples, rather than being an estimate from a part of them."""
        return self.samples == self.samples_total

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        data = dataclasses.asdict(self)
        # A measurement without these figures is stored as it always was.
        return {name: value for name, value in data.items() if value is not None or name not in _LATER}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        values = dict(data)
        for name in ("loss_interval", "speedup_interval", "throughput_interval"):
            if values.get(name) is not None:
                values[name] = Interval(**values[name])
        if values.get("verdict") is not None:
            values["verdict"] = Verdict(values["verdict"])
        return cls(**values)


class TrialState(StrEnum):
    """How far a trial has come."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Everything that was asked for was measured."""
    PRUNED = "pruned"
    """Dropped early, since what was measured already rules it out; ``reason`` says why."""
    FAILED = "failed"
    """The trial measured nothing usable; ``reason`` says why."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate: what was asked and what came of it.

    Attributes:
        number: Position in the history; 0 is the fp32 baseline.
        config: The config that was asked for.
        state: How far it has come.
        measurement: The figures that were measured; None for a trial that runs or failed.
        reason: Why it failed or was pruned.
        duration_s: Wall time it took, in seconds.
        note: Why the strategy proposed it, in its own words.
        params: Values that a sampler drew, by parameter.
        same_as: Number of an earlier trial whose config makes the same model, scales included, so that it was not
            evaluated again: measurement, state and reason are that trial's. None for every other trial.
        model_fingerprint: Identity of the model that was measured; None where none was made, or an earlier version did
            not keep it.
    """

    number: int
    config: QuantizationConfig
    state: TrialState
    measurement: Measurement | None = None
    reason: str | None = None
    duration_s: float | None = None
    note: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    same_as: int | None = None
    model_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.state in (TrialState.COMPLETED, TrialState.PRUNED) and self.measurement is None:
            raise ValueError(f"Trial {self.number} is {self.state} and must have a measurement")
        if self.state in (TrialState.FAILED, TrialState.PRUNED) and not self.reason:
            raise ValueError(f"Trial {self.number} is {self.state} and must say why")

    @property
    def loss(self) -> float | None:
        """The measured loss, where there is one."""
        return None if self.measurement is None else self.measurement.loss

    @property
    def speedup(self) -> float | None:
        """The measured speedup, where there is one."""
        return None if self.measurement is None else self.measurement.speedup

    @cached_property
    def met(self) -> bool:
        """Whether nothing rules it out and it keeps the accuracy target."""
        return (
            self.state is TrialState.COMPLETED
            and self.measurement is not None
            and self.measurement.verdict is Verdict.MET
        )
