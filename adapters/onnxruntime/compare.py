"""Hold what preparation made of a model against the user's model: on their data, or on inputs made up for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx
import onnxruntime

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.adapters.onnxruntime.model import OnnxModel
from autotune.adapters.onnxruntime.session import SessionRunner, open_session, optimized_graph, session_options
from autotune.errors import ApplyError

TOLERANCE = 1e-4
"""Largest difference that preparation may make, as a share of the output's largest magnitude."""

_LENGTHS = (2, 7, 11, 13, 5, 3)
"""Sizes of free dimensions in the order in which their names come: all different, so that none passes for another."""


class Unknown(Exception):
    """The user's own model does not run on these inputs: nothing can be said."""


class Reference:
    """What the user's model gives; it is run when the first answer is needed.

    All changes together are held against it, so that their differences do not add up.

    Args:
        given: The user's model.
        feeds: Batches of the user's; where there are none, two are made up.
    """

    def __init__(self, given: OnnxModel, feeds: Sequence[Feeds] = ()) -> None:
        self._given = given
        self.made_up = not feeds
        self.feeds = tuple(feeds) or tuple(_made_up_feeds(given.inputs))

    @cached_property
    def _session(self) -> SessionRunner:
        return _runner(self._given)

    @cached_property
    def _expected(self) -> list[tuple[Array, ...]]:
        try:
            return [self._session(feeds) for feeds in self.feeds]
        except ApplyError as error:
            raise Unknown(str(error)) from error

    def require_runnable(self) -> None:
        """See that ONNX Runtime opens the user's model.

        Raises:
            ApplyError: It does not.
        """
        assert self._session

    def error(self, model: OnnxModel) -> float:
        """The largest relative difference of the outputs of ``model``; infinite where shapes or NaNs differ.

        Raises:
            Unknown: The user's model does not run on the inputs.
            ApplyError: ``model`` does not run, while the user's does.
        """
        expected = self._expected
        return self._largest(_runner(model), expected)

    @cached_property
    def rounding(self) -> float:
        """What the user's model differs by from itself: run again, and run without ONNX Runtime's optimizations.

        Where it draws random numbers, or picks between values that are almost equal, this exceeds any tolerance.
        """
        again = self._largest(self._session, self._expected)
        plain = _runner(self._given, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return max(again, self._largest(plain, self._expected))

    def agrees(self, error: float) -> bool:
        """Whether a model that differs by ``error`` computes what the user's does."""
        return error <= TOLERANCE or error <= self.rounding

    def first_difference(self, model: OnnxModel) -> str | None:
        """The node of the user's model after which ``model`` goes another way; None where no tensor tells."""
        theirs = _tensors(self._given.proto)
        names = [name for name in theirs if name in _tensors(model.proto)]
        try:
            given, changed = (_runner(_exposing(each, names)) for each in (self._given, model))
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
        return len(given.proto.graph.node) != len(prepared.proto.graph.node)
    return _executed(given) != _executed(prepared)


def _executed(model: OnnxModel) -> list[tuple[str, tuple[int, ...]]]:
    """Type of every node that ONNX Runtime executes, and how many inputs and constants it has."""
    proto = optimized_graph(model.proto)
    # What an input can replace is no constant to ONNX Runtime, and not arranged for its kernels beforehand.
    constants = {tensor.name for tensor in proto.graph.initializer} - {value.name for value in proto.graph.input}
    return sorted(
        (node.op_type, (len(node.input), sum(name in constants for name in node.input))) for node in proto.graph.node
    )


def _runner(model: OnnxModel, level: onnxruntime.GraphOptimizationLevel | None = None) -> SessionRunner:
    options = session_options(Execution(), model.optimization)
    if level is not None:
        options.graph_optimization_level = level
    return SessionRunner(open_session(model.proto, model.external_dir, options), keep=model)


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
    """Of strings, and of what is in sequences and maps."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if list(expected) != list(actual):
            return float("inf")
        return relative_difference(np.array(list(expected.values())), np.array(list(actual.values())))
    if isinstance(expected, (np.ndarray, float)) and isinstance(actual, (np.ndarray, float)):
        return relative_difference(np.asarray(expected), np.asarray(actual))
    return 0.0 if expected == actual else float("inf")


def _made_up_feeds(inputs: tuple[TensorSpec, ...]) -> Iterator[Feeds]:
    """Batches that any embedding can look up and that mask some positions: integers are 0 or 1."""
    for seed, ones in ((0, 1.0), (1, 0.7)):
        rng = np.random.default_rng(seed)
        lengths: dict[str, int] = {}
        feeds: dict[str, Array] = {}
        for spec in inputs:
            shape = tuple(_length(spec, axis, lengths) for axis in range(len(spec.shape)))
            if spec.dtype.kind == "f":
                feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
            elif spec.dtype.kind == "O":
                feeds[spec.name] = np.full(shape, "a", object)
            else:
                feeds[spec.name] = (rng.random(shape) < ones).astype(spec.dtype)
        yield feeds


def _length(spec: TensorSpec, axis: int, lengths: dict[str, int]) -> int:
    size = spec.shape[axis]
    if isinstance(size, int):
        return size
    name = size or f"{spec.name}/{axis}"
    return lengths.setdefault(name, _LENGTHS[len(lengths) % len(_LENGTHS)])
