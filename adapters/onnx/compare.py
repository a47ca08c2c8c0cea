"""Hold what preparation made of a model against the user's model: on their data, or on inputs made up for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx
import onnxruntime

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.session import SessionRunner, open_session, optimized_graph, session_options
from autotune.errors import ApplyError

TOLERANCE = 1e-4
"""Largest difference that preparation may make, as a share of the output's largest magnitude."""

_PLAIN = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

_LENGTHS = ((2, 7, 11, 13, 5, 3), (1, 32), (1, 224))
"""Sizes of free dimensions in the order in which their names come, the last one repeated: all different at first, so
that none passes for another, then those of sequences and pictures, for models that do not run on the first."""


class Unknown(Exception):
    """The user's own model does not run on these inputs: nothing can be said."""


class Reference:
    """Outputs of the user's model, which is run when the first answer is needed.

    All changes together are held against it, so that their differences do not add up.

    Args:
        given: The user's model.
        feeds: Batches of the user's; where there are none, two are made up.
    """

    def __init__(self, given: OnnxModel, feeds: Sequence[Feeds] = ()) -> None:
        self._given = given
        self.made_up = not feeds
        self._choices = [tuple(feeds)] if feeds else [_made_up_feeds(given.inputs, sizes) for sizes in _LENGTHS]

    @cached_property
    def _session(self) -> SessionRunner:
        return _runner(self._given)

    @cached_property
    def _run(self) -> tuple[Sequence[Feeds], list[tuple[Array, ...]]]:
        reason = ""
        for feeds in self._choices:
            try:
                return feeds, [self._session(each) for each in feeds]
            except ApplyError as error:
                reason = reason or str(error)
        raise Unknown(reason)

    @property
    def feeds(self) -> Sequence[Feeds]:
        """The batches that models are compared on.

        Raises:
            Unknown: The user's model does not run on any.
        """
        return self._run[0]

    @property
    def _expected(self) -> list[tuple[Array, ...]]:
        return self._run[1]

    def require_runnable(self) -> None:
        """See that ONNX Runtime opens the user's model.

        Raises:
            ApplyError: It does not.
        """
        assert self._session

    def error(self, model: OnnxModel) -> float:
        """The largest relative difference of the outputs of ``model``; infinite where shapes or NaNs differ.

        ONNX Runtime's own optimizations round otherwise in one graph than in another, which is much where a model picks
        between values that are almost equal. A difference counts only if it is there without them too.

        Raises:
            Unknown: The user's model does not run on the inputs.
            ApplyError: ``model`` does not run, while the user's does.
        """
        if model.external_dir is not None and _nodes(model.proto) == _nodes(self._given.proto):
            return 0.0  # nothing but names was given: two sessions of gigabytes need not tell
        optimized = self._largest(_runner(model), self._expected)
        if optimized <= TOLERANCE:
            return optimized
        plain = _runner(self._given, _PLAIN)
        expected = [plain(feeds) for feeds in self.feeds]
        return min(optimized, self._largest(_runner(model, _PLAIN), expected))

    @cached_property
    def is_random(self) -> bool:
        """Whether the user's model gives something else when it is run again: it draws random numbers."""
        return self._largest(self._session, self._expected) > TOLERANCE

    def agrees(self, error: float) -> bool:
        """Whether a model that differs by ``error`` may compute what the user's does."""
        return error <= TOLERANCE or self.is_random

    def first_difference(self, model: OnnxModel) -> str | None:
        """The node of the user's model after which ``model`` goes another way; None where no tensor tells."""
        theirs = _tensors(self._given.proto)
        names = [name for name in theirs if name in _tensors(model.proto)]
        try:
            given, changed = (_runner(_exposing(each, names), _PLAIN) for each in (self._given, model))
            for feeds in self.feeds:
                for name, expected, actual in zip(names, given(feeds), changed(feeds), strict=False):
                    if not relative_difference(expected, actual) <= TOLERANCE:
                        node = theirs[name]
                        return f"{node.op_type} {(node.name or name)!r}"
        except ApplyError:
            return None
        return None

    def _largest(self, runner: SessionRunner, expected: Sequence[tuple[Array, ...]]) -> float:
        return max(
            (
                relative_difference(want, have)
                for feeds, outputs in zip(self.feeds, expected, strict=True)
                for want, have in zip(outputs, runner(feeds), strict=True)
            ),
            default=0.0,
        )


def executes_another_graph(given: OnnxModel, prepared: OnnxModel) -> bool:
    """Whether ONNX Runtime executes other nodes for the prepared model than for the user's."""
    if given.external_dir is not None or prepared.external_dir is not None:
        sizes = [(len(each.graph.node), len(each.graph.input)) for each in (given.proto, prepared.proto)]
        return sizes[0] != sizes[1]
    return _executed(given) != _executed(prepared)


def _executed(model: OnnxModel) -> list[tuple[str, tuple[int, ...]]]:
    """Type of every node that ONNX Runtime executes, and how many inputs and constants it has."""
    proto = optimized_graph(model.proto)
    # A constant that an input can replace is none to ONNX Runtime, and not arranged for its kernels beforehand.
    constants = {tensor.name for tensor in proto.graph.initializer} - {value.name for value in proto.graph.input}
    return sorted(
        (node.op_type, (len(node.input), sum(name in constants for name in node.input))) for node in proto.graph.node
    )


def _runner(model: OnnxModel, level: onnxruntime.GraphOptimizationLevel | None = None) -> SessionRunner:
    options = session_options(Execution(), model.optimization)
    if level is not None:
        options.graph_optimization_level = level
    return SessionRunner(open_session(model.proto, model.external_dir, options), keep=model)


def _nodes(proto: onnx.ModelProto) -> list[tuple[str, str, list[str], list[str], list[bytes]]]:
    """All of a graph's nodes but their names."""
    return [
        (
            node.domain,
            node.op_type,
            list(node.input),
            list(node.output),
            [each.SerializeToString(deterministic=True) for each in node.attribute],
        )
        for node in proto.graph.node
    ]


def _tensors(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """By tensor, in graph order: the node that writes it."""
    return {name: node for node in proto.graph.node for name in node.output if name}


def _exposing(model: OnnxModel, names: Sequence[str]) -> OnnxModel:
    """The model with the named tensors as its outputs, in this order, those that are its outputs already included."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {output.name: output for output in model.proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    return dataclasses.replace(model, proto=proto)


def relative_difference(expected: Array, actual: Array) -> float:
    """The largest difference as a share of the largest finite magnitude; infinite where shapes or NaNs differ."""
    if expected.shape != actual.shape or expected.dtype.kind != actual.dtype.kind:
        return float("inf")
    if expected.dtype.kind == "O":
        return max(map(_object_difference, expected.flat, actual.flat), default=0.0)
    if expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    if not np.array_equal(np.isnan(expected), np.isnan(actual)):
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite & ~np.isnan(expected)], actual[~finite & ~np.isnan(actual)]):
        return float("inf")
    difference = np.abs(expected[finite].astype(np.float64) - actual[finite].astype(np.float64)).max(initial=0.0)
    magnitude = np.abs(expected[finite].astype(np.float64)).max(initial=0.0)
    return float(difference / magnitude) if magnitude else float(difference)


def _object_difference(expected: object, actual: object) -> float:
    """Compare strings, and the contents of sequences and maps."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if list(expected) != list(actual):
            return float("inf")
        return relative_difference(np.array(list(expected.values())), np.array(list(actual.values())))
    if isinstance(expected, (np.ndarray, float)) and isinstance(actual, (np.ndarray, float)):
        return relative_difference(np.asarray(expected), np.asarray(actual))
    return 0.0 if expected == actual else float("inf")


def _made_up_feeds(inputs: tuple[TensorSpec, ...], sizes: Sequence[int]) -> tuple[Feeds, ...]:
    """Batches that any embedding can look up and that mask some positions: integers are 0 or 1."""
    return tuple(_made_up(inputs, sizes, seed, ones) for seed, ones in ((0, 1.0), (1, 0.7)))


def _made_up(inputs: tuple[TensorSpec, ...], sizes: Sequence[int], seed: int, ones: float) -> Feeds:
    rng = np.random.default_rng(seed)
    lengths: dict[str, int] = {}
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = tuple(_length(spec, axis, lengths, sizes) for axis in range(len(spec.shape)))
        values: Array
        if spec.dtype.kind == "f":
            values = rng.standard_normal(shape)
        elif spec.dtype.kind == "O":
            values = np.full(shape, "a", object)
        else:
            values = rng.random(shape) < ones
        feeds[spec.name] = np.asarray(values, spec.dtype)  # of a scalar too, which ONNX Runtime wants as an array
    return feeds


def _length(spec: TensorSpec, axis: int, lengths: dict[str, int], sizes: Sequence[int]) -> int:
    size = spec.shape[axis]
    if isinstance(size, int):
        return size
    name = size or f"{spec.name}/{axis}"
    return lengths.setdefault(name, sizes[min(len(lengths), len(sizes) - 1)])
