"""Gluon blocks, and symbols with their parameters, as models; see :class:`autotune.adapter.SourceFramework`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.adapter import BatchReader, Example, Gradients
from autotune.adapter.reading import TensorBatches
from autotune.adapters.mxnet.framework import dense, mx
from autotune.adapters.mxnet.load import block_inputs
from autotune.adapters.mxnet.onnx import MxnetConverter
from autotune.errors import InputError
from autotune.nested import leaves, mapped


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
class NDArrayReader(TensorBatches):
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
        return super().__call__(item)

    def inputs(self, inputs: object) -> object:
        """Inputs with arrays for NDArrays; those of a dict in the order of the model, which a block reads them in."""
        if isinstance(inputs, Mapping):
            inputs = {name: inputs[name] for name in self.takes if name in inputs} or inputs
        return super().inputs(inputs)

    @property
    def count(self) -> int:
        """How many inputs the model has."""
        return len(self.takes)

    def has(self, name: str) -> bool:
        """Whether the model has an input of this name."""
        return name in self.takes

    def array(self, value: object) -> object:
        """An NDArray as an array; any other value as it is."""
        return value.asnumpy() if isinstance(value, mx.nd.NDArray) else value


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
        if not given:
            return outputs
        return mapped(_numpy_like if any(isinstance(each, mx.np.ndarray) for each in given) else dense, outputs)


def _numpy_like(output: Any) -> Any:
    return dense(output).as_np_ndarray()
