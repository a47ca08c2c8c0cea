"""The pass of an fp32 model over the calibration data, as every adapter makes it, and a way to look inside of models.

Adapters say how a batch is run and which tensors are seen on the way (:class:`Exposure` is one such way); the order of
checks, the samples and the examples are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from autotune.adapter import Array, Feeds, Model
from autotune.batch import axes_of
from autotune.calibration.checks import complete, parts_within, require_numbers, require_samples, require_sound
from autotune.calibration.collector import StatisticsCollector
from autotune.calibration.examples import ExampleReservoir
from autotune.calibration.statistics import CalibrationStatistics
from autotune.errors import ApplyError, DataError

Observe = Callable[[Feeds, StatisticsCollector, int], None]
"""Runs one batch and hands what it sees to the collector; the number is that of the batch, for messages."""


def gather(
    model: Model,
    batches: Iterable[Feeds],
    seed: int,
    *,
    tensors: Mapping[str, int | None],
    observe: Observe,
    constants: Callable[[], Iterable[tuple[str, Array]]],
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of some of its tensors.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        tensors: By tensor that ``observe`` hands over: the axis that counts its channels; None where none does.
        observe: Runs one batch.
        constants: The weights with what messages call them, asked for where NaN appears among the tensors.

    Raises:
        DataError: There is no batch, or one that the model cannot read.
        ModelError: A weight holds NaN.
    """
    batch = axes_of(model)
    collector = StatisticsCollector({name: axis for name, axis in tensors.items() if axis is not None}, seed)
    examples = ExampleReservoir(batch.inputs if batch.resizable else {}, seed)
    samples = 0
    for index, feeds in enumerate(examples.watch(complete(batches, [spec.name for spec in model.inputs]))):
        observe(feeds, collector, index)
        samples += batch.size(feeds)
    require_samples(samples)
    if damaged := next((name for name in tensors if collector.has_nan(name)), None):
        for name, values in constants():
            require_sound(name, values, damaged)
    found = collector.finish(samples)
    return CalibrationStatistics(found.tensors, samples, examples.finish(), found.unbounded)


class Exposure:
    """Runs a model in as many parts as memory asks for, each with some of its tensors as its outputs.

    Args:
        fed: By tensor that is to be seen and that an input carries: the input's name.
        inner: The other tensors that are to be seen.
        sizes: Tells the bytes of each inner tensor for a batch.
        opened: Makes what runs a batch and returns the inner tensors that are named, in their order.
        limit: Most bytes that the tensors of one part may take; see :data:`~autotune.calibration.checks.EXPOSED_BYTES`.
    """

    def __init__(
        self,
        *,
        fed: Mapping[str, str],
        inner: Sequence[str],
        sizes: Callable[[Feeds], Mapping[str, int]],
        opened: Callable[[tuple[str, ...]], Callable[[Feeds], Sequence[Array]]],
        limit: int,
    ) -> None:
        self._fed = fed
        self._inner = inner
        self._sizes = sizes
        self._opened = opened
        self._limit = limit
        self._parts: list[tuple[tuple[str, ...], Callable[[Feeds], Sequence[Array]]]] = []
        self._largest = 0

    def __call__(self, feeds: Feeds, collector: StatisticsCollector, index: int) -> None:
        """Run batch ``index`` and hand every tensor of floats to the collector.

        Raises:
            DataError: An input of floats holds NaN, or the model cannot read the batch.
        """
        for tensor, name in self._fed.items():
            if feeds[name].dtype.kind == "f":
                require_numbers(name, feeds[name], index)
                collector.update(tensor, feeds[name])
        if not self._inner:
            return
        size = sum(array.size for array in feeds.values())
        try:
            if size > self._largest:
                self._largest = size
                self._split(feeds)
            for names, run in self._parts:
                for name, value in zip(names, run(feeds), strict=True):
                    if value.dtype.kind == "f":
                        collector.update(name, value)
        except ApplyError as error:
            raise DataError(f"Calibration batch {index} must run through the fp32 model, but: {error}") from error

    def _split(self, feeds: Feeds) -> None:
        """Share the tensors out so that those of one part fit the limit, by their shapes for this batch."""
        parts = parts_within(self._limit, self._sizes(feeds), self._inner)
        if len(parts) > len(self._parts):
            self._parts = [(names, self._opened(names)) for names in parts]
