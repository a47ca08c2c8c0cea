"""Runs a model: an executor for each shape of its inputs, on the CPU with oneDNN."""

from __future__ import annotations

from typing import Any

import numpy as np

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.mxnet.framework import FAILURES, THREADS, dense, mx, reason, write
from autotune.adapters.mxnet.model import MxnetModel
from autotune.errors import ApplyError

_KEPT = 4
"""Executors that a runner keeps at the most, one for each shape of a call."""


class MxnetRunner:
    """A model with its executors; see :class:`autotune.adapter.Runner`.

    Args:
        model: The model.
        execution: How it runs.
        fuses: Whether MXNet may fuse ops. Its fusion fails on symbols that also return what it would fuse.

    Raises:
        ApplyError: MXNet was started with other threads.
    """

    def __init__(self, model: MxnetModel, execution: Execution, *, fuses: bool = True) -> None:
        if execution.threads != THREADS:
            raise ApplyError(
                f"MXNet computes with the threads that it was started with ({THREADS}), but {execution.threads} are "
                f"asked for. Set OMP_NUM_THREADS={execution.threads} in the environment before Python starts"
            )
        self._model = model
        self._fuses = fuses
        self._symbol = model.graph.symbol
        arguments = set(self._symbol.list_arguments())
        self._arguments = {name: dense(array) for name, array in model.arguments.items() if name in arguments}
        self._states = {name: dense(array) for name, array in model.states.items()}
        self._executors: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, Any]]] = {}

    @property
    def fixed_threads(self) -> int:
        """Threads of every runner in this process; see :class:`autotune.adapter.FixedThreads`."""
        return THREADS

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: MXNet fails, or an input has another shape than the model declares.
        """
        arrays = {}
        for spec in self._model.inputs:
            array = np.asarray(feeds[spec.name], spec.dtype, order="C")
            if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:]:
                wanted = ", ".join(str(dim) for dim in spec.shape)
                raise ApplyError(
                    f"Input {spec.name!r} takes arrays of shape ({wanted}), but got one of shape {array.shape}. Give "
                    "batches of that shape"
                )
            arrays[spec.name] = array
        try:
            executor, inputs = self._executor(arrays)
            for name, array in arrays.items():
                write(inputs[name], array)
            return tuple([output.asnumpy() for output in executor.forward(is_train=False)])
        except FAILURES as error:
            raise ApplyError(f"MXNet failed to run the model: {reason(error)}") from error

    def _executor(self, arrays: Feeds) -> tuple[Any, dict[str, Any]]:
        shapes = tuple(array.shape for array in arrays.values())
        if shapes not in self._executors:
            inputs = {name: mx.nd.zeros(array.shape, dtype=array.dtype) for name, array in arrays.items()}
            executor = self._symbol.bind(
                mx.cpu(), args={**self._arguments, **inputs}, aux_states=self._states, **self._gradients()
            )
            while len(self._executors) >= _KEPT:
                del self._executors[next(iter(self._executors))]
            self._executors[shapes] = executor, inputs
        return self._executors[shapes]

    def _gradients(self) -> dict[str, Any]:
        """Options of ``bind``: MXNet fuses for inference alone, so that one gradient is asked for where it must not."""
        name = next((name for name, array in self._arguments.items() if array.dtype == np.float32), None)
        if self._fuses or name is None:
            return {"grad_req": "null"}
        return {"args_grad": {name: mx.nd.zeros(self._arguments[name].shape)}, "grad_req": {name: "write"}}
