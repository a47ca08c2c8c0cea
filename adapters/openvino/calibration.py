"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov

from autotune.adapter import Execution, Feeds
from autotune.adapters.openvino.layers import OpenVinoGraph
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops, tensor_name
from autotune.adapters.openvino.session import OpenVinoRunner
from autotune.algorithms.equalization import observed_tensors
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics, ExampleReservoir, StatisticsCollector
from autotune.calibration.checks import (
    EXPOSED_BYTES,
    complete,
    parts_within,
    require_numbers,
    require_samples,
    require_sound,
)
from autotune.errors import ApplyError, DataError

_ONE_THREAD = Execution(threads=1)


def calibrate(
    model: OpenVinoModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every activation of an int8 op.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    ops, _ = quantizable_ops(model.graph)
    ports, axes = observed(model.graph, ops)
    batch = axes_of(model)
    collector = StatisticsCollector(axes, seed)
    examples = ExampleReservoir(batch.inputs if batch.resizable else {}, seed)
    names = [spec.name for spec in model.inputs]
    fed = {
        tensor_name(port.get_node().output(0)): spec.name
        for port, spec in zip(model.graph.inputs, model.inputs, strict=True)
    }
    exposure = _Exposure(model, [name for name in ports if name not in fed], exposed_bytes)
    samples = 0
    for index, feeds in enumerate(examples.watch(complete(batches, names))):
        for tensor, name in fed.items():
            if tensor in ports and feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                collector.update(tensor, feeds[name])
        exposure.run(feeds, collector, index)
        samples += batch.size(feeds)
    require_samples(samples)
    if damaged := next((name for name in ports if collector.has_nan(name)), None):
        _require_sound_weights(ops, damaged)
    found = collector.finish(samples)
    return CalibrationStatistics(found.tensors, samples, examples.finish(), found.unbounded)


def observed(graph: ov.Model, ops: Sequence[QuantizableOp]) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """Ports that int8 ops and recipes ask for, by name in graph order, and the axis that counts channels of each."""
    axes = dict.fromkeys(observed_tensors(OpenVinoGraph(graph)), 1)
    wanted = set(axes)
    for op in ops:
        for place in op.activations:
            port = op.node.input_value(place)
            name = tensor_name(port)
            wanted.add(name)
            if op.convolves:
                axes[name] = 1
            elif op.weight is not None:
                axes.setdefault(name, port.get_partial_shape().rank.get_length() - 1)
    ports = ((tensor_name(port), port) for node in graph.get_ordered_ops() for port in node.outputs())
    return {name: port for name, port in ports if name in wanted}, axes


class _Exposure:
    """Runs the model in as many parts as memory asks for, each with some of its tensors as further outputs."""

    def __init__(self, model: OpenVinoModel, names: Sequence[str], exposed_bytes: int) -> None:
        self._model = model
        self._names = list(names)
        self._limit = exposed_bytes
        self._parts: list[tuple[tuple[str, ...], OpenVinoRunner]] = []
        self._largest = 0

    def run(self, feeds: Feeds, collector: StatisticsCollector, index: int) -> None:
        """Run batch ``index`` and hand every exposed tensor to the collector."""
        if not self._names:
            return
        size = sum(array.size for array in feeds.values())
        try:
            if size > self._largest:
                self._largest = size
                self._split(feeds)
            for names, runner in self._parts:
                for name, value in zip(names, runner(feeds)[-len(names) :], strict=True):
                    if value.dtype.kind == "f":
                        collector.update(name, value)
        except ApplyError as error:
            raise DataError(f"Calibration batch {index} must run through the fp32 model, but: {error}") from error

    def _split(self, feeds: Feeds) -> None:
        """Share the tensors out so that those of one part fit the limit, by their shapes for this batch."""
        parts = parts_within(self._limit, self._sizes(feeds), self._names)
        if len(parts) > len(self._parts):
            self._parts = [(names, OpenVinoRunner(self._exposed(names), _ONE_THREAD)) for names in parts]

    def _exposed(self, names: Sequence[str]) -> OpenVinoModel:
        graph = self._model.graph.clone()
        by_name = {tensor_name(port): port for node in graph.get_ordered_ops() for port in node.outputs()}
        graph.add_outputs([by_name[name] for name in names])
        return OpenVinoModel(graph=graph)

    def _sizes(self, feeds: Feeds) -> dict[str, int]:
        """Bytes of each tensor; what the inputs have, where its shape is not known before it is computed."""
        graph = self._model.graph.clone()
        inputs = sum(array.nbytes for array in feeds.values())
        shapes = (ov.PartialShape(list(feeds[spec.name].shape)) for spec in self._model.inputs)
        try:
            graph.reshape(dict(zip(graph.inputs, shapes, strict=True)))
        except RuntimeError:
            return dict.fromkeys(self._names, inputs)
        known = {
            tensor_name(port): 4 * int(np.prod(list(port.get_shape())))
            for node in graph.get_ordered_ops()
            for port in node.outputs()
            if port.get_partial_shape().is_static
        }
        return {name: known.get(name, inputs) for name in self._names}


def _require_sound_weights(ops: Sequence[QuantizableOp], tensor: str) -> None:
    """See that what makes NaN of sound inputs is the computation and not a weight."""
    for op in ops:
        if op.weight is not None:
            require_sound(f"the weight of {op.name!r}", op.weight, tensor)
