"""Makes a predictor of Paddle Inference for a model, and runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.paddle.framework import inference, quiet, reason
from autotune.adapters.paddle.model import PaddleModel
from autotune.errors import ApplyError

FAILURES = (RuntimeError, ValueError, TypeError, OSError, IndexError, NotImplementedError, MemoryError)
"""Classes of the errors that Paddle's C++ raises."""


def predictor(model: PaddleModel, execution: Execution, *, optimized: Path | None = None) -> Any:
    """A predictor on the CPU that computes with oneDNN, in fp32 as well as in integers.

    Args:
        model: The model.
        execution: How it runs.
        optimized: A folder that gets the program as it is executed, with all that was fused.

    Raises:
        ApplyError: Paddle refuses the model.
    """
    config = inference.Config()
    content, parameters = model.content, model.parameters
    config.set_model_buffer(content, len(content), parameters, len(parameters))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(execution.threads)
    config.switch_ir_optim(True)
    config.enable_mkldnn()  # without it, fp32 is 3 to 4 times slower
    if model.integers:
        config.enable_mkldnn_int8(set())
    if optimized is not None:
        config.enable_save_optim_model(True)
        config.set_optim_cache_dir(str(optimized))
    try:
        with quiet():
            return inference.create_predictor(config)
    except FAILURES as error:
        raise ApplyError(f"Paddle refuses the model: {reason(error)}") from error


class PaddleRunner:
    """A model with a predictor; see :class:`autotune.adapter.Runner`.

    Args:
        model: The model.
        execution: How it runs.
        optimized: See :func:`predictor`.
    """

    def __init__(self, model: PaddleModel, execution: Execution, *, optimized: Path | None = None) -> None:
        self._specs = model.inputs
        self._predictor = predictor(model, execution, optimized=optimized)
        self._inputs = [self._predictor.get_input_handle(spec.name) for spec in self._specs]
        self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
        self._shapes: list[tuple[int, ...]] = [()] * len(self._inputs)

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: Paddle fails or an input has another shape than the model declares.
        """
        try:
            for place, (spec, handle) in enumerate(zip(self._specs, self._inputs, strict=True)):
                array = np.asarray(feeds[spec.name], spec.dtype, order="C")
                if array.shape != self._shapes[place]:
                    _require_shape(spec.name, spec.shape, array.shape)
                    handle.reshape(array.shape)
                    self._shapes[place] = array.shape
                handle.copy_from_cpu(array)
            self._predictor.run()
            return tuple([handle.copy_to_cpu() for handle in self._outputs])
        except FAILURES as error:
            raise ApplyError(f"Paddle failed to run the model: {reason(error)}") from error


def _require_shape(name: str, declared: tuple[int | str | None, ...], shape: tuple[int, ...]) -> None:
    fits = len(declared) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(declared, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if dim is None else str(dim) for dim in declared)
        raise ApplyError(
            f"Input {name!r} takes arrays of shape ({wanted}), but got one of shape {shape}. Give batches of that "
            "shape, or export the model with a free first dimension"
        )
