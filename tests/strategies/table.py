"""A recorded table as an evaluator: a real model's space, evaluated completely beforehand."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autotune.config import (
    CalibrationAlgorithm,
    Granularity,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)
from autotune.criterion import Criterion, Interval
from autotune.evaluation.accuracy.score import Score
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, TuningSpace
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement
from tests.strategies.answers import Answers, RecordedScorer

DATA = Path(__file__).parent / "data"

_ACTIVATION = TensorScheme(dtype=QuantizedType.U8)
_WEIGHT = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)


@dataclass(frozen=True)
class Row:
    """Measurements of one config; ``answers``: of each evaluation image, whether its answer is right."""

    speedup: float
    low: float
    high: float
    output_error: float
    size_bytes: int
    answers: Answers


class Table:
    """A model whose ops are the groups of the recording.

    The recorded configs have one calibration algorithm for all groups; a config that mixes them is answered as its
    first int8 group says, so that every config of the space has an answer.

    Args:
        name: Name of the file in ``tests/strategies/data``.
        seed: Each seed times every config anew: the speedup varies as its recorded interval says; and draws the order
            of the samples. None: as recorded.
    """

    def __init__(self, name: str, seed: int | None = None) -> None:
        data: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        self._images = int(data["images"])
        self.algorithms = tuple(CalibrationAlgorithm.parse(text) for text in data["algorithms"])
        self.rows = {
            (mask, algorithm): Row(speedup, low, high, error, size, self._unpacked(answers))
            for mask, algorithm, speedup, low, high, error, size, answers in data["rows"]
        }
        self.groups = [f"group_{i}" for i in range(len(data["groups"]))]
        self._right = self._unpacked(data["baseline_answers"])
        margins = np.frombuffer(base64.b64decode(data["baseline_margins"]), np.float16)
        self._margins = margins.astype(np.float64)
        self._profile = data.get("profile", {})
        self._hessian = data.get("hessian", {})
        self._seed = seed
        self._scorers: dict[Criterion, RecordedScorer] = {}
        self._scores: dict[tuple[Criterion, bytes], Score] = {}

    def _unpacked(self, answers: str) -> Answers:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(answers), np.uint8), count=self._images)
        return bits.astype(bool)

    @cached_property
    def space(self) -> TuningSpace:
        """An op for each group: fp32, or int8 with one of the algorithms."""
        int8 = PrecisionSpace(
            precision=Precision.INT8, activations=(_ACTIVATION,), weights=(_WEIGHT,), algorithms=self.algorithms
        )
        ops = (OpSpace(name=name, op_type="Conv", precisions=(int8, FP32_SPACE)) for name in self.groups)
        return TuningSpace(ops=tuple(ops))

    def row(self, config: QuantizationConfig) -> Row:
        """The row that was recorded for a config."""
        mask = sum(1 << i for i, name in enumerate(self.groups) if config[name].precision is Precision.FP32)
        choices = [config[name].calibration for name in self.groups]
        algorithm = next((choice for choice in choices if choice is not None), self.algorithms[0])
        return self.rows[mask, self.algorithms.index(algorithm)]

    def loss(self, row: Row) -> float:
        """Relative, over all images."""
        return 1.0 - float(row.answers.sum()) / float(self._right.sum())

    def __call__(self, config: QuantizationConfig) -> Measurement:
        """Measure a config on all images."""
        if config.is_fp32:
            return Measurement(loss=0.0, speedup=1.0, size_bytes=self.row(config).size_bytes)
        row = self.row(config)
        speedup = row.speedup
        if self._seed is not None:
            generator = np.random.default_rng([self._seed, int(config.fingerprint, 16)])
            speedup += (row.high - row.low) / 3.92 * float(generator.standard_normal())
        loss = self.loss(row)
        lost = self._right.astype(float) - row.answers
        half = 1.96 * float(lost.std()) / math.sqrt(self._images) / float(self._right.mean())
        return Measurement(
            accuracy=float(row.answers.mean()),
            loss=loss,
            loss_interval=Interval(low=loss - half, high=loss + half),
            speedup=speedup,
            speedup_interval=Interval(low=speedup - row.speedup + row.low, high=speedup - row.speedup + row.high),
            size_bytes=row.size_bytes,
            samples=self._images,
            samples_total=self._images,
        )

    def until_settled(self, config: QuantizationConfig, criterion: Criterion) -> tuple[Measurement, str | None]:
        """Measure a config on as many images as its verdict needs, and say why where these are not all."""
        whole = self(config)
        row = self.row(config)
        if criterion not in self._scorers:
            self._scorers[criterion] = RecordedScorer(self._right, self._margins, criterion, self._seed or 0)
        key = (criterion, row.answers.tobytes())
        if key not in self._scores:
            self._scores[key] = self._scorers[criterion](row.answers)
        score = self._scores[key]
        if score.stopped is None:
            return whole, None
        part = dataclasses.replace(
            whole, accuracy=score.accuracy, loss=score.loss, loss_interval=score.interval, samples=score.samples
        )
        return part, score.stopped

    def true_cost(self, config: QuantizationConfig) -> float:
        """Latency over the baseline's, as recorded."""
        return 1.0 if config.is_fp32 else 1 / self.row(config).speedup

    def optimum(self, target: float) -> float:
        """The least cost of a config that keeps the target; 1 is fp32's."""
        return min([1.0, *(1 / row.speedup for row in self.rows.values() if self.loss(row) <= target)])

    def sensitivity(self) -> Mapping[str, float]:
        """Recorded output error with one group in int8, under the preferred algorithm."""
        full = 2 ** len(self.groups) - 1
        return {name: self.rows[full ^ 1 << i, 0].output_error for i, name in enumerate(self.groups)}

    def output_error(self, config: QuantizationConfig) -> float:
        """As recorded."""
        return 0.0 if config.is_fp32 else self.row(config).output_error

    def op_latency(self) -> Mapping[str, Mapping[Precision, float]]:
        """From the recorded profiles of the fp32 and of the fully quantized model."""
        return {
            name: {Precision.FP32: fp32, Precision.INT8: int8}
            for name, (fp32, int8) in zip(self.groups, self._profile.get("seconds", ()), strict=False)
            if fp32 and int8
        }

    def op_latency_noise(self) -> Mapping[str, Mapping[Precision, float]]:
        """No noise is known."""
        return {}

    def crossing_latency(self) -> Mapping[str, float]:
        """As recorded, for the last tensor of each group."""
        return dict(zip(self.groups, self._profile.get("crossing_s", ()), strict=False))

    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """The groups follow each other."""
        return {name: tuple(self.groups[i + 1 : i + 2]) for i, name in enumerate(self.groups)}

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        """As recorded."""
        speed = self.true_cost(config) / self.true_cost(other)
        return speed, speed

    def hessian_sensitivity(self, *, labelled: bool = False) -> Mapping[str, float] | None:
        """As recorded; None where the table has none, since a file has no gradients."""
        found = self._hessian.get("labels" if labelled else "outputs")
        return None if found is None else dict(zip(self.groups, found, strict=True))

    def problem(self, seed: int, target: float) -> Problem:
        """The problem whose insights are these."""
        return Problem(
            space=self.space,
            criterion=Criterion(relative=target),
            objective=Objective.LATENCY,
            seed=seed,
            insights=self,
        )
