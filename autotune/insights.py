"""What can be learnt of the ops at less than an evaluation's price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic

import numpy as np

from autotune.adapter import Adapter, Array, Execution, Feeds, ModelT
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.errors import TrialError
from autotune.history import History
from autotune.space import TuningSpace


class MeasuredInsights(Generic[ModelT]):
    """Insights that are measured when first asked for, and kept in the history from then on.

    Args:
        adapter: Makes and runs the candidates.
        model: The fp32 model.
        space: Its ops.
        statistics: Of its calibration.
        feeds: A few calibration batches, the same for every op.
        execution: How candidates run.
        history: Where the figures are kept.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        model: ModelT,
        space: TuningSpace,
        statistics: CalibrationStatistics,
        feeds: Sequence[Feeds],
        execution: Execution,
        history: History,
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._space = space
        self._statistics = statistics
        self._feeds = feeds
        self._execution = execution
        self._history = history

    def sensitivity(self) -> Mapping[str, float]:
        """By op: squared error over squared output, when this op alone takes its preferred choice.

        Costs a candidate and a few inferences per op. An op whose candidate fails counts as infinitely sensitive.
        """
        stored = self._history.kept("sensitivity")
        if stored is None:
            expected = self._outputs(self._model)
            stored = {op.name: self._noise_to_signal(op.name, expected) for op in self._space.tunable}
            self._history.keep("sensitivity", stored)
        return {name: float(value) for name, value in stored.items()}

    def _noise_to_signal(self, op: str, expected: Sequence[Sequence[Array]]) -> float:
        choice = self._space.by_name[op].preferred
        config = QuantizationConfig(ops={op: choice}, recipe=self._space.recipe.preferred)
        try:
            outputs = self._outputs(self._adapter.apply(self._model, config, self._statistics))
        except TrialError:
            return float("inf")
        return noise_to_signal(expected, outputs)

    def _outputs(self, model: ModelT) -> list[tuple[Array, ...]]:
        run = self._adapter.runner(model, self._execution)
        return [run(feeds) for feeds in self._feeds]


def noise_to_signal(expected: Sequence[Sequence[Array]], actual: Sequence[Sequence[Array]]) -> float:
    """Squared error over squared expectation, the mean over outputs; outputs that are no floats do not count.

    Args:
        expected: By batch, by output.
        actual: The same.
    """
    ratios = []
    for index, first in enumerate(expected[0]):
        if first.dtype.kind != "f":
            continue
        want = np.concatenate([batch[index].ravel() for batch in expected]).astype(np.float64)
        have = np.concatenate([batch[index].ravel() for batch in actual]).astype(np.float64)
        energy = float(np.dot(want, want))
        error = float(np.dot(have - want, have - want))
        ratios.append(error / energy if energy > 0 else float(error > 0))
    return float(np.mean(ratios)) if ratios else 0.0
