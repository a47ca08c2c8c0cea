"""One pass of the fp32 model over the calibration data, with its inner tensors as further outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.adapters.tensorflow.graph import FLOAT32
from autotune.adapters.tensorflow.layers import TensorFlowGraph, channels_first
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.ops import DENSE, elements, following_ops
from autotune.adapters.tensorflow.session import interpreter_for
from autotune.adapters.tensorflow.unfuse import Unfused, tensor_key
from autotune.algorithms.equalization import observed_tensors
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.calibration.checks import EXPOSED_BYTES, parts_within, require_numbers
from autotune.calibration.gathering import gather
from autotune.errors import ApplyError, DataError


def calibrate(
    model: TensorFlowModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of what int8 ops read and write.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    axes = observed(model)
    fed = {tensor_key(place): spec.name for place, spec in zip(model.graph.inputs, model.inputs, strict=True)}
    exposure = _Exposure(model, [key for key in axes if key not in fed], exposed_bytes)

    def observe(feeds: Feeds, collector: StatisticsCollector, index: int) -> None:
        for key, name in fed.items():
            if feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                if key in axes:
                    collector.update(key, channels_first(np.asarray(feeds[name])))
        exposure.run(feeds, collector, index)

    return gather(model, batches, seed, tensors=axes, observe=observe, constants=lambda: _weights(model))


def _weights(model: TensorFlowModel) -> Iterator[tuple[str, Array]]:
    """The weights of the ops, with what messages call them."""
    for op in model.ops:
        if op.weight is not None:
            weight = model.graph.constant(op.weight)
            assert weight is not None
            yield f"the weight of {op.name!r}", weight


def observed(model: TensorFlowModel) -> Mapping[str, int | None]:
    """By key of each tensor to observe: the axis that counts its channels, None where nothing says which one does."""
    graph = model.graph
    axes: dict[str, int | None] = {}
    for op in (*model.ops, *following_ops(graph)):
        for place in (*op.activations, *op.outputs):
            if graph.tensors[place].type == FLOAT32:
                rank = len(graph.tensors[place].shape)
                dense = op.kind == DENSE and rank != 4
                axis = 1 if rank == 4 else rank - 1 if dense else None
                axes[tensor_key(place)] = axes.get(tensor_key(place)) or axis
    for key in observed_tensors(TensorFlowGraph(model.content)):
        axes.setdefault(key, 1)
    return axes


class _Exposure:
    """Runs the model in as many parts as memory asks for, each with some of its tensors as further outputs."""

    def __init__(self, model: TensorFlowModel, keys: Sequence[str], exposed_bytes: int) -> None:
        self._model = model
        self._keys = list(keys)
        self._limit = exposed_bytes
        self._contents: dict[tuple[str, ...], bytes] = {}
        self._ready: dict[tuple[object, ...], list[tuple[tuple[str, ...], _Part]]] = {}
        self._unfused = Unfused(model.content)

    def run(self, feeds: Feeds, collector: StatisticsCollector, index: int) -> None:
        """Run batch ``index`` and hand every exposed tensor to the collector."""
        arrays = [np.asarray(feeds[spec.name], spec.dtype, order="C") for spec in self._model.inputs]
        try:
            for keys, part in self._parts(arrays):
                for key, value in zip(keys, part(arrays), strict=True):
                    collector.update(key, channels_first(value))
        except (ApplyError, RuntimeError, ValueError) as error:
            raise DataError(f"Calibration batch {index} must run through the fp32 model, but: {error}") from error

    def _parts(self, arrays: Sequence[Array]) -> list[tuple[tuple[str, ...], _Part]]:
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._ready:
            parts = parts_within(self._limit, self._sizes(arrays), self._keys) or [()]
            self._ready.clear()  # interpreters of another shape hold memory that this one needs
            self._ready[shapes] = [(keys, _Part(self._model, self._exposed(keys), shapes, len(keys))) for keys in parts]
        return self._ready[shapes]

    def _exposed(self, keys: tuple[str, ...]) -> bytes:
        if keys not in self._contents:
            graph = self._unfused.graph
            graph.main.outputs = [*graph.outputs, *(self._unfused.places[key] for key in keys)]
            graph.model.signatureDefs = None
            self._contents[keys] = graph.to_bytes()
        return self._contents[keys]

    def _sizes(self, arrays: Sequence[Array]) -> dict[str, int]:
        """Bytes of each tensor for inputs of these shapes, taken to grow as the inputs do."""
        graph = self._unfused.graph
        ours = sum(elements(graph, place) for place in graph.inputs)
        factor = sum(array.size for array in arrays) / max(1, ours)
        return {key: int(4 * factor * elements(graph, self._unfused.places[key])) for key in self._keys}


class _Part:
    """An interpreter of a model with further outputs, of which a call returns those alone."""

    def __init__(self, model: TensorFlowModel, content: bytes, shapes: tuple[tuple[int, ...], ...], count: int) -> None:
        self._interpreter = interpreter_for(content, model.inputs, shapes, 1)
        self._inputs = [each["index"] for each in self._interpreter.get_input_details()]
        outputs = [each["index"] for each in self._interpreter.get_output_details()]
        self._outputs = outputs[len(outputs) - count :]

    def __call__(self, arrays: Sequence[Array]) -> Iterable[Array]:
        for place, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(place, array)
        self._interpreter.invoke()
        for place in self._outputs:
            yield self._interpreter.get_tensor(place)
