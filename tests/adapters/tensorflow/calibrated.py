"""Small networks, loaded and calibrated once, and how their outputs are compared."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array, Execution
from autotune.adapters.tensorflow.adapter import TensorFlowAdapter
from autotune.adapters.tensorflow.graph import Graph, text
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.space import TuningSpace
from tests.adapters.tensorflow.networks import batches, small_cnn

ONE = Execution(threads=1)
ADAPTER = TensorFlowAdapter()


class Calibrated:
    """A network, its statistics and its space.

    Args:
        content: A file with one input, ``x``.
        data: Calibration batches.
    """

    def __init__(self, content: bytes, data: Sequence[Mapping[str, Array]] | None = None) -> None:
        self.batches = list(data or batches())
        self.model: TensorFlowModel = ADAPTER.load(content)
        self.statistics: CalibrationStatistics = ADAPTER.calibrate(self.model, self.batches, seed=0)
        self.space: TuningSpace = ADAPTER.space(self.model)

    def choice(self, op: str, precision: Precision = Precision.INT8) -> OpConfig:
        """The preferred choice of an op in a precision."""
        found = self.space.by_name[op].space_of(precision)
        assert found is not None
        return found.preferred

    def applied(
        self, *ops: str, precision: Precision = Precision.INT8, recipe: Recipe | None = None
    ) -> TensorFlowModel:
        """Some ops in a precision, all others in fp32; all ops where none is named."""
        names = ops or tuple(self.space.by_name)
        config = QuantizationConfig(
            ops={name: self.choice(name, precision) for name in names}, recipe=recipe or Recipe()
        )
        return ADAPTER.apply(self.model, config, self.statistics)

    def outputs(self, model: TensorFlowModel) -> Array:
        """First output of a model for the first batch."""
        return ADAPTER.runner(model, ONE)(self.batches[0])[0]

    def noise(self, model: TensorFlowModel) -> float:
        """Squared difference from fp32's outputs over their square."""
        expected = self.outputs(self.model)
        return float(np.square(self.outputs(model) - expected).mean() / np.square(expected).mean())


def kinds(model: TensorFlowModel) -> list[str]:
    """Kinds of the ops of a model, in order."""
    graph = Graph(model.content)
    return [graph.kind(each) for each in graph.operators]


def types(model: TensorFlowModel, kind: str) -> list[tuple[int, ...]]:
    """By op of a kind: the types of what it reads and of what it writes first."""
    graph = Graph(model.content)
    return [
        tuple(graph.tensors[place].type for place in (*each.inputs, each.outputs[0]))
        for each in graph.operators
        if graph.kind(each) == kind
    ]


def names(model: TensorFlowModel) -> list[str]:
    """Names of all tensors."""
    return [text(each.name) for each in Graph(model.content).tensors]


@functools.cache
def cnn() -> Calibrated:
    return Calibrated(small_cnn(24))
