"""Run a model with LiteRT's interpreter, XNNPACK's kernels on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.errors import ApplyError

Shapes = tuple[tuple[int, ...], ...]


class TensorFlowRunner:
    """A model with one interpreter per shape of its inputs; see :class:`autotune.adapter.Runner`.

    Args:
        model: The model.
        execution: How it runs.
    """

    def __init__(self, model: TensorFlowModel, execution: Execution) -> None:
        self._model = model
        self._threads = execution.threads
        self._specs = model.inputs
        self._ready: dict[Shapes, _Ready] = {}

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: The model does not take the shape of an input, or LiteRT fails.
        """
        arrays = [np.asarray(feeds[spec.name], spec.dtype, order="C") for spec in self._specs]
        shapes = tuple([array.shape for array in arrays])
        ready = self._ready.get(shapes)
        if ready is None:
            interpreter = interpreter_for(self._model.content, self._specs, shapes, self._threads)
            ready = self._ready[shapes] = _Ready(interpreter)
        return ready(arrays)


class _Ready:
    """An interpreter with memory for inputs of one shape."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs = [each["index"] for each in interpreter.get_input_details()]
        self._outputs = [each["index"] for each in interpreter.get_output_details()]

    def __call__(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        try:
            for place, array in zip(self._inputs, arrays, strict=True):
                self._interpreter.set_tensor(place, array)
            self._interpreter.invoke()
            return tuple([self._interpreter.get_tensor(place) for place in self._outputs])
        except (RuntimeError, ValueError) as error:
            raise ApplyError(f"LiteRT failed to run the model: {first_line(error)}") from error


def interpreter_for(content: bytes, specs: Sequence[TensorSpec], shapes: Shapes, threads: int) -> Any:
    """An interpreter that has memory for inputs of these shapes, in graph order.

    Args:
        content: The file.
        specs: Its inputs.
        shapes: Shapes of the inputs; empty: those of the file.
        threads: Threads inside of one call.

    Raises:
        ApplyError: The model does not take them, or LiteRT refuses it.
    """
    for spec, shape in zip(specs, shapes, strict=bool(shapes)):
        if not _fits(spec.shape, shape):
            declared = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
            raise ApplyError(
                f"Input {spec.name!r} takes arrays of shape ({declared}), but got one of shape {shape}. "
                "Give batches of that shape, or convert the model with a free first dimension"
            )
    try:
        made = new_interpreter(content, threads)
        for detail, shape in zip(made.get_input_details(), shapes, strict=bool(shapes)):
            if tuple(detail["shape"]) != shape:
                made.resize_tensor_input(detail["index"], list(shape))
        made.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ApplyError(
            f"LiteRT refuses the model for inputs of shape {', '.join(map(str, shapes)) or 'of the file'}: "
            f"{first_line(error)}"
        ) from error
    return made


def new_interpreter(content: bytes, threads: int) -> Any:
    """An interpreter without memory for its tensors.

    Raises:
        ValueError: The content is no model.
        RuntimeError: LiteRT refuses it.
    """
    return Interpreter(model_content=content, num_threads=threads)


def first_line(error: Exception) -> str:
    """The part of LiteRT's message that says what is wrong; the rest names files of its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = lines[0] if lines else type(error).__name__
    with contextlib.suppress(ValueError):
        telling = telling[telling.index(".cc:") :].split(" ", 1)[1]
    return telling.rstrip(". ")


def _fits(declared: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    return len(declared) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(declared, shape, strict=True)
    )
