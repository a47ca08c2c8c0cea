"""Gluon blocks, and symbols with their parameters, as models; see :class:`autotune.adapter.SourceFramework`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.adapter import BatchReader, Example, Gradients
from autotune.adapter.example import looks_labelled
from autotune.adapters.mxnet.framework import dense, mx
from autotune.adapters.mxnet.load import block_inputs
from autotune.adapters.mxnet.onnx import MxnetConverter
from autotune.errors import InputError
from autotune.nested import leaves


class MxnetSource:
    """MXNet as the framework of a user's block or symbol."""

    name = "mxnet"

    def owns(self, source: object) -> bool:
        """Whether an object is a Gluon block or a symbol, with parameters or without.

        A block that is no ``HybridBlock`` and a symbol without parameters are told so when they are read.
        """
        first = source[0] if isinstance(source, tuple) and source else source
        return isinstance(first, (mx.gluon.Block, mx.sym.Symbol))

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The ONNX file that MXNet's exporter makes.

        Raises:
            MissingDependencyError: The exporter's environment cannot be made.
            ModelError: The model cannot be read or converted.
            DataError: There are no data, or it does not take the first batch.
        """
        return MxnetConverter().to_onnx(source, example)

    def gradients(self, source: Any, example: Example | None) -> Gradients | None:  # noqa: ARG002
        """None: there are no Hessian probes of MXNet's models."""
        return None

    def reader(self, source: Any) -> NDArrayReader:
        """A reader that makes arrays of the batches for a model."""
        return NDArrayReader(takes=_takes(source))

    def module(self, call: Callable[[object], Any], read: BatchReader) -> TunedBlock:
        """A tuned model as a Gluon block."""
        assert isinstance(read, NDArrayReader)
        return TunedBlock(call, read)


def _takes(source: Any) -> tuple[str, ...]:
    """Names of the inputs of a model; empty where it is none that has inputs."""
    if isinstance(source, mx.gluon.HybridBlock):
        return block_inputs(source)
    if not isinstance(source, tuple):
        return ()
    symbol, *parameters = source
    known = {name.partition(":")[2] or name for each in parameters if isinstance(each, Mapping) for name in each}
    return tuple(name for name in symbol.list_inputs() if name not in known)


@dataclass(frozen=True, kw_only=True)
class NDArrayReader:
    """Makes arrays of NDArrays; see :class:`autotune.adapter.BatchReader`.

    Attributes:
        takes: Names of the model's inputs.
    """

    takes: tuple[str, ...]

    def __call__(self, item: object) -> object:
        """One item of a loader with arrays for NDArrays, labels included.

        Raises:
            InputError: It is a ``DataBatch`` of the iterators of ``mx.io``.
        """
        if isinstance(item, mx.io.DataBatch):
            raise InputError(
                "A data loader must be one that can be iterated again, but iterators of `mx.io` end once. Give a "
                "`gluon.data.DataLoader`, or a list of `(inputs, labels)`"
            )
        if looks_labelled(item, len(self.takes)):
            assert isinstance(item, (tuple, list))
            return self.inputs(item[0]), _array(item[1])
        return self.inputs(item)

    def inputs(self, inputs: object) -> object:
        """Inputs with arrays for NDArrays; what the model does not take of a dict is left out."""
        if isinstance(inputs, Mapping):
            kept = [name for name in self.takes if name in inputs]
            return {
                str(name): _array(inputs[name]) for name in kept or inputs
            }  # none: what reads it says what it wants
        if isinstance(inputs, (tuple, list)) and inputs and all(hasattr(each, "shape") for each in inputs):
            return tuple(_array(each) for each in inputs)
        return _array(inputs)


class TunedBlock(mx.gluon.Block):
    """Runs a tuned model on the CPU: NDArrays in, NDArrays out; arrays in, arrays out.

    It has no parameters and computes no gradients.

    Args:
        call: Runs the model on one batch of arrays.
        read: Makes arrays of a batch.
    """

    def __init__(self, call: Callable[[object], Any], read: NDArrayReader) -> None:
        super().__init__()
        self._call = call
        self._read = read

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from what it runs."""
        return TunedBlock, (self._call, self._read)

    def forward(self, *inputs: object) -> Any:
        """Run one batch.

        Args:
            inputs: As the block that was tuned takes them; also one tuple or one dict.
        """
        outputs = self._call(self._read.inputs(inputs[0] if len(inputs) == 1 else inputs))
        given = [each for each in leaves(inputs) if isinstance(each, mx.nd.NDArray)]
        return _tensors(outputs, any(isinstance(each, mx.np.ndarray) for each in given)) if given else outputs


def _array(value: object) -> object:
    return value.asnumpy() if isinstance(value, mx.nd.NDArray) else value


def _tensors(outputs: Any, numpy_like: bool) -> Any:
    if isinstance(outputs, (tuple, list)):
        return tuple(_tensors(each, numpy_like) for each in outputs)
    tensor = dense(outputs)
    return tensor.as_np_ndarray() if numpy_like else tensor
