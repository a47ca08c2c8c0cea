"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotune.adapter import Execution, Feeds
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.layers import PaddleGraph
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import QuantizableOp, quantizable_ops
from autotune.adapters.paddle.session import PaddleRunner
from autotune.adapters.paddle.tensors import Tensors
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
    model: PaddleModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every tensor that int8 ops read or write.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    program = model.program
    ops = quantizable_ops(program, model.constants, model.names)
    wanted, axes = observed(program, model, ops)
    batch = axes_of(model)
    collector = StatisticsCollector(axes, seed)
    examples = ExampleReservoir(batch.inputs if batch.resizable else {}, seed)
    names = [spec.name for spec in model.inputs]
    exposure = _Exposure(model, [name for name in wanted if name not in names], exposed_bytes)
    samples = 0
    for index, feeds in enumerate(examples.watch(complete(batches, names))):
        for name in names:
            if name in wanted and feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                collector.update(name, feeds[name])
        exposure.run(feeds, collector, index)
        samples += batch.size(feeds)
    require_samples(samples)
    if damaged := next((name for name in wanted if collector.has_nan(name)), None):
        for op in ops:
            for constant in (op.weight, op.bias):
                require_sound(f"the constant {constant!r}", model.constants[constant], damaged)
    found = collector.finish(samples)
    return CalibrationStatistics(found.tensors, samples, examples.finish(), found.unbounded)


def observed(program: Any, model: PaddleModel, ops: Sequence[QuantizableOp]) -> tuple[list[str], dict[str, int]]:
    """Tensors that int8 ops and recipes ask for, in graph order, and the axis that counts channels of each."""
    graph = PaddleGraph(program, model.constants, ops)
    axes = dict.fromkeys(observed_tensors(graph), 1)
    axes.update(dict.fromkeys((op.source for op in ops), 1))
    wanted = {*axes, *Tensors(program, model.constants).around(ops)}
    order = [*programs.inputs(program), *(name for op in programs.ops(program) for name in programs.all_written(op))]
    return [name for name in dict.fromkeys(order) if name in wanted], axes


class _Exposure:
    """Runs the model in as many parts as memory asks for, each with some of its tensors as further outputs."""

    def __init__(self, model: PaddleModel, names: Sequence[str], exposed_bytes: int) -> None:
        self._model = model
        self._names = list(names)
        self._limit = exposed_bytes
        self._parts: list[tuple[tuple[str, ...], PaddleRunner]] = []
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
        """Share the tensors out so that those of one part fit the limit, by their shapes for this batch."""
        parts = parts_within(self._limit, self._sizes(feeds), self._names)
        if len(parts) > len(self._parts):
            self._parts = [(names, PaddleRunner(self._exposed(names), _ONE_THREAD)) for names in parts]

    def _exposed(self, names: Sequence[str]) -> PaddleModel:
        """The model with these tensors as its outputs; Paddle leaves out what none of them needs."""
        program = self._model.program
        made = programs.part(program, programs.ops(program), programs.inputs(program), names)
        return PaddleModel(content=made.SerializeToString(), constants=self._model.constants)

    def _sizes(self, feeds: Feeds) -> Mapping[str, int]:
        """Bytes of each tensor; a free dimension is as long as that of the first input, or as its longest one."""
        first = next(iter(feeds.values()))
        longest = max(first.shape[1:], default=1)
        variables = programs.variables(self._model.program)
        found = {}
        for name in self._names:
            _, shape = programs.tensor_type(variables[name]) or (None, ())
            free = [len(first) if axis == 0 else longest for axis, dim in enumerate(shape) if dim < 0]
            size = 4
            for dim in (*free, *(dim for dim in shape if dim >= 0)):
                size *= int(dim)
            found[name] = size
        return found
