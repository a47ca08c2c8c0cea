"""Compile a model for the CPU and run it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import openvino as ov

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.openvino.load import first_line
from autotune.adapters.openvino.model import FLOAT32, OpenVinoModel
from autotune.errors import ApplyError

_STATIC = 2
"""Shapes for which a runner compiles the model of its own: that of latency, and that of accuracy. A model compiled for
any shape is fused otherwise (1.50 instead of 1.63 times fp32's speed, measured on ResNet-20)."""

CPU = "CPU"


@functools.cache
def core() -> ov.Core:
    """OpenVINO's own, one per process: each one loads the CPU plugin anew, which takes 4 ms of every compilation."""
    return ov.Core()


def half_types() -> tuple[str, ...]:
    """The types of 16 bits that OpenVINO computes in on this CPU; others it accepts as a hint and ignores."""
    listed = core().get_property(CPU, "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, capability in (("bf16", "BF16"), ("f16", "FP16")) if capability in listed)


def compile_options(execution: Execution, floats: str = FLOAT32, *, profile: bool = False) -> dict[str, Any]:
    """Options under which models side by side do not disturb each other, and fp32 means fp32.

    Where the CPU has instructions for bfloat16, OpenVINO otherwise computes fp32 ops in it.
    """
    return {
        "INFERENCE_NUM_THREADS": execution.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": floats,
        "PERF_COUNT": profile,
    }


class OpenVinoRunner:
    """A model with one request per shape of its inputs; see :class:`autotune.adapter.Runner`.

    Args:
        model: The model.
        execution: How it runs.
    """

    def __init__(self, model: OpenVinoModel, execution: Execution) -> None:
        self._model = model
        self._execution = execution
        self._names = [spec.name for spec in model.inputs]
        self._dtypes = [spec.dtype for spec in model.inputs]
        self._outputs = range(len(model.graph.outputs))
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._any_shape: Any = None
        self._set: list[Array | None] = [None] * len(self._names)
        self._last: Any = None

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: OpenVINO fails or refuses the shape of an input; the message ends in its own words.
        """
        arrays = [feeds[name] for name in self._names]
        request = self._request(tuple([array.shape for array in arrays]))
        if request is not self._last:
            self._set = [None] * len(self._names)
            self._last = request
        try:
            for index, array in enumerate(arrays):
                # One array that is run again and again, as for latency, is handed over once. A converted array is
                # converted anew in each call: the caller may have changed the values.
                if array is not self._set[index]:
                    ready = np.asarray(array, self._dtypes[index], order="C")
                    request.set_input_tensor(index, ov.Tensor(ready, shared_memory=ready.ndim > 0))
                    self._set[index] = ready  # OpenVINO reads its memory and does not keep it
            request.infer()
            return tuple([request.get_output_tensor(index).data.copy() for index in self._outputs])
        except RuntimeError as error:
            raise ApplyError(f"OpenVINO failed to run the model: {first_line(error)}") from error

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        found = self._requests.get(shapes)
        if found is not None:
            return found
        if len(self._requests) < _STATIC or not self._model.graph.is_dynamic():
            self._requests[shapes] = compile_for(self._model, shapes, self._execution).create_infer_request()
            return self._requests[shapes]
        if self._any_shape is None:
            self._any_shape = compiled(self._model.graph, self._execution, self._model.floats).create_infer_request()
        return self._any_shape


def compile_for(
    model: OpenVinoModel, shapes: tuple[tuple[int, ...], ...], execution: Execution, *, profile: bool = False
) -> ov.CompiledModel:
    """The model compiled for inputs of these shapes, in graph order.

    Raises:
        ApplyError: The model does not take them, or OpenVINO refuses it.
    """
    graph = model.graph
    for spec, shape, port in zip(model.inputs, shapes, graph.inputs, strict=True):
        if not port.get_partial_shape().compatible(ov.PartialShape(list(shape))):
            raise ApplyError(
                f"Input {spec.name!r} takes arrays of shape {port.get_partial_shape()}, but got one of shape {shape}. "
                "Give batches of that shape, or export the model with a free first dimension"
            )
    if graph.is_dynamic():
        graph = graph.clone()
        try:
            graph.reshape(
                {port: ov.PartialShape(list(shape)) for port, shape in zip(graph.inputs, shapes, strict=True)}
            )
        except RuntimeError as error:
            raise ApplyError(
                f"The model does not take inputs of shape {', '.join(map(str, shapes))}, since an op inside was "
                f"exported for another one: {first_line(error)}. Give batches of the size it was exported with, or "
                "export it with a free first dimension throughout"
            ) from error
    return compiled(graph, execution, model.floats, profile=profile)


def compiled(
    graph: ov.Model, execution: Execution, floats: str = FLOAT32, *, profile: bool = False
) -> ov.CompiledModel:
    """The model compiled for the shapes that it has.

    Raises:
        ApplyError: OpenVINO refuses it.
    """
    try:
        return core().compile_model(graph, CPU, compile_options(execution, floats, profile=profile))
    except RuntimeError as error:
        raise ApplyError(f"OpenVINO refuses the model: {first_line(error)}") from error
