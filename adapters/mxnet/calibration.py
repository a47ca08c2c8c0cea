"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autotune.adapter import Execution, Feeds
from autotune.adapters.mxnet.framework import FAILURES, THREADS, mx, reason
from autotune.adapters.mxnet.graph import graph_of
from autotune.adapters.mxnet.model import MxnetModel
from autotune.adapters.mxnet.session import MxnetRunner
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


def calibrate(
    model: MxnetModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every tensor around its ops.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    wanted = {name for op in model.ops for name in op.tensors}
    order = [name for name in model.graph.fused.tensors if name in wanted]
    batch = axes_of(model)
    collector = StatisticsCollector(dict.fromkeys(order, 1), seed)
    examples = ExampleReservoir(batch.inputs if batch.resizable else {}, seed)
    names = [spec.name for spec in model.inputs]
    exposure = _Exposure(model, [name for name in order if name not in names], exposed_bytes)
    samples = 0
    for index, feeds in enumerate(examples.watch(complete(batches, names))):
        for name in names:
            if name in wanted and feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                collector.update(name, feeds[name])
        exposure.run(feeds, collector, index)
        samples += batch.size(feeds)
    require_samples(samples)
    if damaged := next((name for name in order if collector.has_nan(name)), None):
        for name, array in {**model.arguments, **model.states}.items():
            if array.dtype.kind == "f":
                require_sound(f"the parameter {name!r}", array, damaged)
    found = collector.finish(samples)
    return CalibrationStatistics(found.tensors, samples, examples.finish(), found.unbounded)


class _Exposure:
    """Runs the fused model in as many parts as memory asks for, each with some of its tensors as its outputs."""

    def __init__(self, model: MxnetModel, names: list[str], exposed_bytes: int) -> None:
        self._model = model
        self._names = names
        self._limit = exposed_bytes
        self._parts: list[tuple[tuple[str, ...], MxnetRunner]] = []
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
                for name, value in zip(names, runner(feeds), strict=True):
                    if value.dtype.kind == "f":
                        collector.update(name, value)
        except ApplyError as error:
            raise DataError(f"Calibration batch {index} must run through the fp32 model, but: {error}") from error

    def _split(self, feeds: Feeds) -> None:
        parts = parts_within(self._limit, self._sizes(feeds), self._names)
        if len(parts) > len(self._parts):
            internals = self._model.graph.fused.symbol.get_internals()
            self._parts = [(names, self._exposed(internals, names)) for names in parts]

    def _exposed(self, internals: Any, names: tuple[str, ...]) -> MxnetRunner:
        """The model with these tensors as its outputs."""
        symbol = mx.sym.Group([internals[name] for name in names])
        return MxnetRunner(self._model.with_text(graph_of(symbol).text), Execution(threads=THREADS))

    def _sizes(self, feeds: Feeds) -> Mapping[str, int]:
        """Bytes of each tensor for a batch."""
        internals = self._model.graph.fused.symbol.get_internals()
        try:
            _, shapes, _ = internals.infer_shape(**{spec.name: feeds[spec.name].shape for spec in self._model.inputs})
        except FAILURES as error:
            raise ApplyError(f"MXNet cannot infer shapes: {reason(error)}") from error
        found = {}
        for name, shape in zip(internals.list_outputs(), shapes, strict=True):
            size = 4
            for dim in shape:
                size *= int(dim)
            found[name] = size
        return {name: found[name] for name in self._names}
