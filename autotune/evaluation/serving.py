"""Measures candidates by what several instances of them get done, where throughput is the objective."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from autotune.adapter import Adapter, Feeds
from autotune.criterion import Interval, Verdict
from autotune.errors import DeadlineReached
from autotune.evaluation.front import EvaluatorInFront
from autotune.evaluation.latency.throughput import Throughput, ThroughputOptions, measure_throughput
from autotune.evaluation.measured import Evaluation
from autotune.trial import Measurement


class ServingEvaluator(EvaluatorInFront):
    """An evaluator in front of another one, which adds the throughput of fp32 and of what keeps the target.

    Args:
        evaluator: Measures all else.
        adapter: Makes the models ready to run.
        model: The fp32 model.
        feeds: One batch of ``options.batch_size`` samples.
        options: Instances, cores, time.
    """

    def __init__(
        self, evaluator: Any, *, adapter: Adapter[Any], model: Any, feeds: Feeds, options: ThroughputOptions
    ) -> None:
        super().__init__(evaluator)
        self._adapter = adapter
        self._model = model
        self._feeds = feeds
        self._options = options

    def baseline(self, *, deadline: float | None = None) -> Measurement:
        """Measure the fp32 model; see :meth:`autotune.evaluation.Evaluator.baseline`."""
        return self._with_own(self._evaluator.baseline(deadline=deadline), deadline)

    def complete_baseline(self, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """Measure what is missing of the fp32 model."""
        return self._with_own(self._evaluator.complete_baseline(measured, deadline=deadline), deadline)

    def evaluate(self, candidate: Any, *, deadline: float | None = None, **options: Any) -> Evaluation:
        """Measure a candidate; its throughput only where it may keep the target."""
        found: Evaluation = self._evaluator.evaluate(candidate, deadline=deadline, **options)
        if found.measurement.loss is None or found.measurement.verdict is Verdict.MISSED:
            return found
        fp32, own = self._throughputs([self._model, candidate], deadline)
        gain = own.samples_per_s / fp32.samples_per_s
        # The slowest round against the fastest one of fp32: wider than any interval, since rounds are few.
        interval = Interval(low=own.low / fp32.high, high=own.high / fp32.low)
        measured = dataclasses.replace(
            found.measurement,
            throughput=own.samples_per_s,
            throughput_gain=gain,
            throughput_interval=interval,
        )
        return dataclasses.replace(found, measurement=measured)

    def _with_own(self, measured: Measurement, deadline: float | None) -> Measurement:
        if measured.throughput is not None:
            return measured
        (own,) = self._throughputs([self._model], deadline)
        certain = Interval(low=1.0, high=1.0)
        return dataclasses.replace(
            measured, throughput=own.samples_per_s, throughput_gain=1.0, throughput_interval=certain
        )

    def _throughputs(self, models: list[Any], deadline: float | None) -> list[Throughput]:
        """The throughput of models that take turns.

        Raises:
            DeadlineReached: There is no time left for it.
        """
        needed_s = self._options.window_s * self._options.rounds * len(models)
        if deadline is not None and time.monotonic() + needed_s > deadline:
            raise DeadlineReached(f"Throughput takes {needed_s:.1f} s or more, and less was left")
        return measure_throughput(self._adapter, models, self._feeds, self._options)
