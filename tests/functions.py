"""Models that are functions of arrays, of the kinds whose calls are no stack of samples along the first axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array, Execution, Feeds, Runner, TensorSpec
from autotune.batch import BatchAxes
from autotune.errors import ApplyError

Dim = int | str | None
RNG = np.random.default_rng(0)


@dataclass(frozen=True, kw_only=True)
class FunctionModel:
    """A function as a model, with the specification of its inputs and outputs."""

    call: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axes: BatchAxes | None = None
    fingerprint: str = "function"
    size_bytes: int = 1
    notes: tuple[str, ...] = ()


class FunctionAdapter:
    """As much of an adapter as running a function needs."""

    name = "function"

    def runner(self, model: FunctionModel, execution: Execution) -> Runner:  # noqa: ARG002
        def run(feeds: Feeds) -> tuple[Array, ...]:
            try:
                found = model.call(*(feeds[spec.name] for spec in model.inputs))
            except (ValueError, IndexError) as error:
                raise ApplyError(f"The function refuses its inputs: {error}") from error
            return found if isinstance(found, tuple) else (found,)

        return run

    def with_batch_axes(self, model: FunctionModel, axes: BatchAxes) -> FunctionModel:
        return dataclasses.replace(model, batch_axes=axes)


def spec(name: str, *shape: Dim, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape)


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _weight(inputs: int, outputs: int) -> npt.NDArray[np.float32]:
    return RNG.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)


def _recurrence(values: Array) -> Array:
    """Each step along the first axis depends on those before it."""
    states = np.zeros_like(values)
    for step in range(len(values)):
        states[step] = np.tanh(values[step] + 0.5 * states[step - 1])
    return states


def time_major_recurrence(time: Dim = "time", batch: Dim = "batch") -> FunctionModel:
    """(time, batch, 8) to (time, batch, 5)."""
    w, head = _weight(8, 6), _weight(6, 5)
    return FunctionModel(
        call=lambda x: _recurrence(x @ w) @ head,
        inputs=(spec("x", time, batch, 8),),
        outputs=(spec("y", time, batch, 5),),
    )


def utterance(dim: Dim = None) -> FunctionModel:
    """A sequence (frames, 8) to its classes (frames, 5), by a recurrence over the frames: no axis of samples."""
    w, head = _weight(8, 6), _weight(6, 5)
    return FunctionModel(
        call=lambda x: _recurrence(x @ w) @ head, inputs=(spec("x", dim, 8),), outputs=(spec("y", dim, 5),)
    )


def classifier(batch: Dim = "batch", out: Dim = "batch") -> FunctionModel:
    """(batch, 8) to (batch, 5): samples do not depend on each other."""
    w0, w1 = _weight(8, 16), _weight(16, 5)
    return FunctionModel(
        call=lambda x: np.maximum(x @ w0, 0) @ w1, inputs=(spec("x", batch, 8),), outputs=(spec("y", out, 5),)
    )


def graph_network(nodes: Dim = "N", edges: Dim = "E") -> FunctionModel:
    """Nodes (N, 8) and edges (2, E) to classes of the nodes (N, 5): each edge adds its source to its target."""
    w0, w1 = _weight(8, 16), _weight(16, 5)

    def call(x: Array, pairs: Array) -> Array:
        hidden = x @ w0
        mixed = hidden.copy()
        np.add.at(mixed, pairs[1], hidden[pairs[0]])
        return np.asarray(np.maximum(mixed, 0) @ w1)

    inputs = (spec("x", nodes, 8), spec("edges", 2, edges, dtype=np.int64))
    return FunctionModel(call=call, inputs=inputs, outputs=(spec("y", nodes, 5),))


def baked_batch(size: int = 4) -> FunctionModel:
    """(batch, 2, 4) to (batch, 5), with the batch written into a reshape."""
    w = _weight(8, 5)
    return FunctionModel(
        call=lambda x: x.reshape(size, 8) @ w, inputs=(spec("x", "batch", 2, 4),), outputs=(spec("y", "batch", 5),)
    )


def pointers() -> FunctionModel:
    """Rows (rows, 8), and indices (picks) into them, to classes of the picked ones (picks, 5)."""
    w = _weight(8, 5)
    inputs = (spec("x", None, 8), spec("index", None, dtype=np.int64))
    return FunctionModel(call=lambda x, index: x[index] @ w, inputs=inputs, outputs=(spec("y", None, 5),))


def voice_detector(batch: Dim = "batch") -> FunctionModel:
    """Samples (batch, 16), a state (2, batch, 6) and a scalar rate, to a probability (batch, 1) and the next state."""
    w, head = _weight(16, 6), _weight(6, 1)

    def call(samples: Array, state: Array, rate: Array) -> tuple[Array, ...]:
        if state.shape[1] != len(samples):
            raise ValueError(f"a state of {state.shape[1]} beside {len(samples)} samples")
        hidden = np.tanh(samples * np.float32(rate / 16000) @ w + state[0])
        cell = np.tanh(hidden + state[1])
        return (1 / (1 + np.exp(-(hidden @ head))), np.stack([hidden, cell]))

    return FunctionModel(
        call=call,
        inputs=(spec("input", batch, 16), spec("state", 2, batch, 6), spec("sr", dtype=np.int64)),
        outputs=(spec("output", batch, 1), spec("stateN", 2 if batch else None, batch, 6)),
    )
