"""Layers as models.

See :class:`autotune.adapter.SourceFramework`, and :class:`autotune.adapter.Trainable` for how they are trained.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, BatchReader, Example, FakeQuantizedOp, Gradients
from autotune.adapter.reading import TensorBatches
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.layer import parameters
from autotune.adapters.paddle.onnx import PaddleConverter
from autotune.adapters.paddle.training import fake_quantized
from autotune.errors import ApplyError, InputError, WorkspaceError
from autotune.nested import leaves, mapped


class PaddleSource:
    """PaddlePaddle as the framework of a user's layer."""

    name = "paddle"

    def owns(self, source: object) -> bool:
        """Whether an object is a ``paddle.nn.Layer``."""
        return isinstance(source, paddle.nn.Layer)

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The ONNX file of a layer, by paddle2onnx in an environment of its own; see :class:`PaddleConverter`.

        Raises:
            MissingDependencyError: paddle2onnx is not installed.
            ModelError: The layer cannot be traced or converted.
            DataError: There is no example, or one that ``forward`` does not take.
        """
        return PaddleConverter().to_onnx(source, example)

    def gradients(self, source: Any, example: Example | None) -> Gradients | None:  # noqa: ARG002
        """None: there are no Hessian probes of layers."""
        return None

    def reader(self, source: Any) -> TensorReader:
        """A reader that makes arrays of the batches for a layer."""
        return TensorReader(takes=tuple(parameters(source)))

    def module(self, call: Callable[[object], Any], read: BatchReader) -> Any:
        """A tuned model as a layer."""
        assert isinstance(read, TensorReader)
        return TunedLayer(call, read)

    def fake_quantized(
        self, source: Any, example: Example, ops: Mapping[str, FakeQuantizedOp]
    ) -> tuple[Any, Sequence[str]]:  # example is the contract's: a layer is trained without being traced
        """A copy of the layer, in training mode, whose convolutions round as Paddle's int8 kernels do.

        Batch normalizations keep their running statistics.
        """
        del example
        return fake_quantized(source, ops)

    def trained(self, source: Any, model: Any) -> Any:
        """A copy of the layer with the weights that were trained.

        Raises:
            ApplyError: A parameter is missing, has another shape, or is not finite.
        """
        if not isinstance(model, paddle.nn.Layer):
            raise ApplyError(
                f"`train_fn` must train the layer that it is given, or return a paddle.nn.Layer, but returned a "
                f"{type(model).__name__}. Return nothing where it trains in place"
            )
        return _with_weights(source, {name: value.numpy() for name, value in model.state_dict().items()})

    def changed(self, source: Any, trained: Any) -> bool:
        """Whether any weight of a copy differs from the user's."""
        other = trained.state_dict()
        return any(
            not np.array_equal(value.numpy(), other[name].numpy()) for name, value in source.state_dict().items()
        )

    def save_weights(self, model: Any, path: Path) -> None:
        """Write the weights of a layer.

        Raises:
            OSError: They cannot be written.
        """
        file = io.BytesIO()
        arrays: dict[str, Any] = {name: value.numpy() for name, value in model.state_dict().items()}
        np.savez(file, allow_pickle=False, **arrays)
        path.write_bytes(file.getvalue())

    def load_weights(self, source: Any, path: Path) -> Any:
        """A copy of the layer with the weights of a file.

        Raises:
            WorkspaceError: The file is damaged or of another model.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return _with_weights(source, dict(stored))
        except (OSError, ValueError, EOFError, KeyError, ApplyError) as error:
            raise WorkspaceError(
                f"Trained weights must be those of this model, but {path} cannot be used: {error}. Remove it, and the "
                "model is trained again"
            ) from error


def _with_weights(source: Any, arrays: Mapping[str, Array]) -> Any:
    trained = copy.deepcopy(source)
    for name, value in trained.state_dict().items():
        array = arrays.get(name)
        if array is None or list(array.shape) != list(value.shape):
            what = "is missing" if array is None else f"has shape {tuple(array.shape)}"
            raise ApplyError(
                f"A trained model must have the parameters of the layer, but {name!r} {what}. Train the layer that "
                "`train_fn` is given in place, or return one with the same parameters"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ApplyError(
                f"Weights must be finite after training, but {name!r} is not: training diverged. Lower the learning "
                "rate, or clip gradients"
            )
        value.set_value(array)
    return trained


@dataclass(frozen=True, kw_only=True)
class TensorReader(TensorBatches):
    """Makes arrays of tensors; see :class:`autotune.adapter.BatchReader`.

    Attributes:
        takes: Names of the inputs of the layer's ``forward``.
    """

    takes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many inputs the layer takes."""
        return len(self.takes)

    def has(self, name: str) -> bool:
        """Whether the layer takes an input of this name."""
        return name in self.takes

    def array(self, value: object) -> object:
        """A tensor as an array; any other value as it is."""
        return value.numpy() if isinstance(value, paddle.Tensor) else value

    def called(self, positional: Sequence[object], named: Mapping[str, object]) -> object:
        """The batch of a call as users write it.

        Raises:
            InputError: It has more inputs than the layer takes.
        """
        if not named:
            return self.inputs(positional[0] if len(positional) == 1 else tuple(positional))
        if len(positional) + len(named) > len(self.takes):
            raise InputError(
                f"A call must give each input once ({', '.join(self.takes)}), but has {len(positional)} by position "
                f"and {', '.join(named)} by name"
            )
        return self.inputs({**dict(zip(self.takes, positional, strict=False)), **named})


class TunedLayer(paddle.nn.Layer):
    """Runs a tuned model on the CPU: tensors in, tensors out; arrays in, arrays out.

    It has no parameters, computes no gradients and cannot be trained.

    Args:
        call: Runs the model on one batch of arrays.
        read: Makes arrays of a batch.
    """

    def __init__(self, call: Callable[[object], Any], read: TensorReader) -> None:
        super().__init__()
        self._call = call
        self._read = read
        self.training = False

    def forward(self, *inputs: object, **named: object) -> Any:
        """Run one batch.

        Args:
            inputs: As the ``forward`` of the layer that was tuned takes them; also one tuple or one dict.
            named: The same by name.
        """
        outputs = self._call(self._read.called(inputs, named))
        given = leaves((inputs, named))
        return mapped(_tensor, outputs) if any(isinstance(each, paddle.Tensor) for each in given) else outputs

    def train(self) -> Any:
        """Refuse to leave evaluation mode.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "A tuned layer stays in evaluation mode, but `.train()` was called: its weights are integers. Train the "
            "layer that was tuned, and tune it again"
        )


def _tensor(output: Any) -> Any:
    return paddle.to_tensor(np.array(output))
