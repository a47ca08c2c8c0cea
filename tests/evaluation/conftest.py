"""A small real model, and the least adapter that runs it: what is tested here is the evaluator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Example, Execution, Feeds, Runner, TensorSpec
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.space import TuningSpace

FEATURES, CLASSES = 16, 5


@dataclass(frozen=True)
class OnnxModel:
    proto: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.proto).hexdigest()[:16]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec(name="x", dtype=np.dtype(np.float32), shape=("n", FEATURES)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec(name="logits", dtype=np.dtype(np.float32), shape=("n", None)),)

    @property
    def size_bytes(self) -> int:
        return len(self.proto)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()


class OnnxAdapter:
    name = "onnx"
    suffix = ".onnx"

    def runner(self, model: OnnxModel, execution: Execution) -> Runner:
        options = ort.SessionOptions()
        options.intra_op_num_threads = execution.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(model.proto, options, providers=["CPUExecutionProvider"])

        def run(feeds: Feeds) -> tuple[Array, ...]:
            return tuple(session.run(None, dict(feeds)))

        return run

    def load(self, source: object, example: Example | None = None) -> OnnxModel:  # noqa: ARG002
        assert isinstance(source, bytes)
        return OnnxModel(source)

    def space(self, model: OnnxModel) -> TuningSpace:
        raise NotImplementedError

    def calibrate(self, model: OnnxModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        raise NotImplementedError

    def apply(self, model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> OnnxModel:
        raise NotImplementedError

    def save(self, model: OnnxModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:  # noqa: ARG002
        path.write_bytes(model.proto)
        return (path,)


def linear_model(weight: Array, *, repeats: int = 1) -> OnnxModel:
    """``x @ weight``; ``repeats`` multiplies the work without changing the result."""
    nodes, inputs = [], []
    for index in range(repeats):
        nodes.append(helper.make_node("MatMul", ["x", "w"], [f"y{index}"], name=f"matmul{index}"))
        # Each product differs by a scaling that cancels in the mean, or they would be computed once.
        nodes.append(helper.make_node("Mul", [f"y{index}", f"s{index}"], [f"z{index}"]))
        inputs.append(f"z{index}")
    nodes.append(helper.make_node("Mean", inputs, ["logits"]))
    scales = [numpy_helper.from_array(np.array(1.0 + 1e-7 * i, np.float32), f"s{i}") for i in range(repeats)]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w"), *scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return OnnxModel(model.SerializeToString())


@dataclass(frozen=True)
class Problem:
    """A linear classifier that is right on about 85 % of its samples."""

    weight: Array
    model: OnnxModel
    inputs: Array
    labels: Array

    def batches(self, size: int = 50) -> list[tuple[Array, Array]]:
        count = len(self.labels)
        return [(self.inputs[i : i + size], self.labels[i : i + size]) for i in range(0, count, size)]

    def disturbed(self, noise: float, seed: int = 1) -> OnnxModel:
        """The same model with noise on its weights."""
        generator = np.random.default_rng(seed)
        return linear_model(self.weight + noise * generator.standard_normal(self.weight.shape))

    def repeated(self, count: int) -> OnnxModel:
        """The same model with ``count`` times the work."""
        return linear_model(self.weight, repeats=count)

    def constant(self, value: float) -> OnnxModel:
        """A model that answers ``value`` to an input of ones."""
        return linear_model(np.full(self.weight.shape, value / FEATURES))

    def widened(self) -> OnnxModel:
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
def adapter() -> OnnxAdapter:
    return OnnxAdapter()
