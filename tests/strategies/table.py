"""A recorded table as an evaluator: a real model's space, evaluated completely beforehand."""

from __future__ import annotations

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
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, TuningSpace
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement

DATA = Path(__file__).parent / "data"

_ACTIVATION = TensorScheme(dtype=QuantizedType.U8)
_WEIGHT = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)

_FLIPPED = 0.02
"""Share of answers that a config changes, for the interval of its loss: the tables do not hold single answers."""


@dataclass(frozen=True)
class Row:
    """What was measured of one config."""

    accuracy: float
    loss: float
    speedup: float
    low: float
    high: float
    output_error: float
    size_bytes: int


class Table:
    """A model whose ops are the groups of the recording.

    The recorded configs have one calibration algorithm for all groups; a config that mixes them is answered as its
    first int8 group says, so that every config of the space has an answer.

    Args:
        name: Of the file in ``tests/strategies/data``.
        seed: Each seed times every config anew: the speedup varies as its recorded interval says. None: as recorded.
    """

    def __init__(self, name: str, seed: int | None = None) -> None:
        data: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        self.algorithms = tuple(CalibrationAlgorithm.parse(text) for text in data["algorithms"])
        self.rows = {(mask, algorithm): Row(*figures) for mask, algorithm, *figures in data["rows"]}
        self.groups = [f"group_{i}" for i in range(len(data["groups"]))]
        self._images, self._baseline_accuracy = int(data["images"]), float(data["baseline_accuracy"])
        self._profile = data.get("profile", {})
        self._seed = seed

    @cached_property
    def space(self) -> TuningSpace:
        """An op for each group: fp32, or int8 with one of the algorithms."""
        int8 = PrecisionSpace(
            precision=Precision.INT8, activations=(_ACTIVATION,), weights=(_WEIGHT,), algorithms=self.algorithms
        )
        ops = (OpSpace(name=name, op_type="Conv", precisions=(int8, FP32_SPACE)) for name in self.groups)
        return TuningSpace(ops=tuple(ops))

    def row(self, config: QuantizationConfig) -> Row:
        """What was recorded for a config."""
        mask = sum(1 << i for i, name in enumerate(self.groups) if config[name].precision is Precision.FP32)
        choices = [config[name].calibration for name in self.groups]
        algorithm = next((choice for choice in choices if choice is not None), self.algorithms[0])
        return self.rows[mask, self.algorithms.index(algorithm)]

    def __call__(self, config: QuantizationConfig) -> Measurement:
        """Measure a config."""
        if config.is_fp32:
            return Measurement(loss=0.0, speedup=1.0, size_bytes=self.row(config).size_bytes)
        row = self.row(config)
        speedup = row.speedup
        if self._seed is not None:
            generator = np.random.default_rng([self._seed, int(config.fingerprint, 16)])
            speedup += (row.high - row.low) / 3.92 * float(generator.standard_normal())
        half = 1.96 * math.sqrt(_FLIPPED / self._images) / self._baseline_accuracy
        interval = Interval(low=row.loss - half, high=row.loss + half)
        return Measurement(
            accuracy=row.accuracy,
            loss=row.loss,
            loss_interval=interval,
            speedup=speedup,
            speedup_interval=Interval(low=speedup - row.speedup + row.low, high=speedup - row.speedup + row.high),
            size_bytes=row.size_bytes,
            samples=self._images,
        )

    def true_cost(self, config: QuantizationConfig) -> float:
        """Latency over the baseline's, as recorded."""
        return 1.0 if config.is_fp32 else 1 / self.row(config).speedup

    def optimum(self, target: float) -> float:
        """The least cost of a config that keeps the target; 1 is fp32's."""
        return min([1.0, *(1 / row.speedup for row in self.rows.values() if row.loss <= target)])

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

    def crossing_latency(self) -> Mapping[str, float]:
        """As recorded, for the last tensor of each group."""
        return dict(zip(self.groups, self._profile.get("crossing_s", ()), strict=False))

    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """The groups follow each other."""
        return {name: tuple(self.groups[i + 1 : i + 2]) for i, name in enumerate(self.groups)}

    def hessian_sensitivity(self) -> Mapping[str, float] | None:
        """ONNX Runtime has no gradients."""
        return None

    def problem(self, seed: int, target: float) -> Problem:
        """The problem whose insights are these."""
        return Problem(
            space=self.space,
            criterion=Criterion(relative=target),
            objective=Objective.LATENCY,
            seed=seed,
            insights=self,
        )
