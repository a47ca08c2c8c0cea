"""Small networks, loaded and calibrated once, and how their outputs are compared."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.pytorch.adapter import PytorchAdapter
from autotune.adapters.pytorch.model import PytorchModel
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.space import TuningSpace
from tests.adapters.pytorch.networks import Encoder, SmallCnn, exported, seeded

ONE = Execution(threads=1)
ADAPTER = PytorchAdapter()


class Calibrated:
    """A network, its statistics and its space.

    Args:
        program: An exported program with one input, ``x``.
        shape: Shape of one sample.
    """

    def __init__(self, program: Any, shape: Sequence[int]) -> None:
        rng = np.random.default_rng(2)
        self.batches: list[Feeds] = [{"x": rng.normal(size=(8, *shape)).astype(np.float32)} for _ in range(4)]
        self.model: PytorchModel = ADAPTER.load(program)
        self.statistics: CalibrationStatistics = ADAPTER.calibrate(self.model, self.batches, seed=0)
        self.space: TuningSpace = ADAPTER.space(self.model)

    def choice(self, op: str, precision: Precision) -> OpConfig:
        """The preferred choice of an op in a precision."""
        found = self.space.by_name[op].space_of(precision)
        assert found is not None
        return found.preferred

    def config(self, choices: Mapping[str, Precision], recipe: Recipe | None = None) -> QuantizationConfig:
        """Some ops in some precisions, all others in fp32."""
        ops = {op: self.choice(op, precision) for op, precision in choices.items()}
        return QuantizationConfig(ops=ops, recipe=recipe or Recipe())

    def applied(self, choices: Mapping[str, Precision], recipe: Recipe | None = None) -> PytorchModel:
        """The candidate of :meth:`config`."""
        return ADAPTER.apply(self.model, self.config(choices, recipe), self.statistics)

    def outputs(self, model: PytorchModel) -> Array:
        """Output of a model's quick form for the first batch."""
        return ADAPTER.quick_runner(model, ONE)(self.batches[0])[0]

    def noise(self, model: PytorchModel) -> float:
        """Squared difference from fp32's outputs over their square."""
        expected = self.outputs(self.model)
        return float(np.square(self.outputs(model) - expected).mean() / np.square(expected).mean())


@functools.cache
def cnn() -> Calibrated:
    return Calibrated(exported(seeded(SmallCnn(16)), 3, 16, 16), (3, 16, 16))


@functools.cache
def encoder() -> Calibrated:
    return Calibrated(exported(seeded(Encoder()), 6, 32), (6, 32))
