"""A small linear model of the toy framework: what is tested here is the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, TensorSpec
from autotune.criterion import Criterion
from autotune.evaluation import Evaluator, UserFunction
from tests.evaluation.sources import QUICK, Make, Source
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import Layer, NumpyModel

FEATURES, CLASSES = 16, 5


def linear_model(weight: Array, *, repeats: int = 1) -> NumpyModel:
    """``x @ weight``; ``repeats`` multiplies the work without changing the result."""
    bias = np.zeros(weight.shape[1], np.float32)
    names = [*(f"matmul{index}" for index in range(1, repeats)), "logits"]
    layers = (
        Layer(name=name, kind="dense", reads=("x",), weight=weight.astype(np.float32), bias=bias) for name in names
    )
    return NumpyModel(
        layers=tuple(layers),
        inputs=(TensorSpec(name="x", dtype=np.dtype(np.float32), shape=("n", FEATURES)),),
        outputs=(TensorSpec(name="logits", dtype=np.dtype(np.float32), shape=("n", None)),),
    )


@dataclass(frozen=True)
class Problem:
    """A linear classifier that is right on about 85 % of its samples."""

    weight: Array
    model: NumpyModel
    inputs: Array
    labels: Array

    def batches(self, size: int = 50) -> list[tuple[Array, Array]]:
        count = len(self.labels)
        return [(self.inputs[i : i + size], self.labels[i : i + size]) for i in range(0, count, size)]

    def disturbed(self, noise: float, seed: int = 1) -> NumpyModel:
        """The same model with noise on its weights."""
        generator = np.random.default_rng(seed)
        return linear_model(self.weight + noise * generator.standard_normal(self.weight.shape))

    def repeated(self, count: int) -> NumpyModel:
        """The same model with ``count`` times the work."""
        return linear_model(self.weight, repeats=count)

    def constant(self, value: float) -> NumpyModel:
        """A model that answers ``value`` to an input of ones."""
        return linear_model(np.full(self.weight.shape, value / FEATURES))

    def widened(self) -> NumpyModel:
        """A model with one class too many."""
        return linear_model(np.concatenate([self.weight, self.weight[:, :1]], axis=1))


def make_problem(samples: int) -> Problem:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((FEATURES, CLASSES)).astype(np.float32)
    inputs = generator.standard_normal((samples, FEATURES)).astype(np.float32)
    noisy: Any = inputs @ weight + 0.8 * generator.standard_normal((samples, CLASSES))
    return Problem(weight, linear_model(weight), inputs, noisy.argmax(1))


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem(600)


@pytest.fixture
def adapter() -> NumpyAdapter:
    return NumpyAdapter()


@pytest.fixture
def make(problem: Any, adapter: Any) -> Make:
    def build(source: Source, criterion: Criterion | None = None, **options: Any) -> Evaluator[Any]:
        settings: dict[str, Any] = {
            "adapter": adapter,
            "model": problem.model,
            "latency": QUICK,
            "feeds": {"x": problem.inputs[:1]},
            "seed": 0,
            **options,
        }
        return Evaluator(source=source, criterion=criterion or Criterion(relative=0.05), **settings)

    return build


@pytest.fixture
def scored(problem: Any) -> UserFunction:
    def eval_fn(model: Callable[[object], Array]) -> float:
        return float((model(problem.inputs).argmax(1) == problem.labels).mean())

    return UserFunction(function=eval_fn)
