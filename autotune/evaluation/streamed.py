"""Accuracy sample by sample: metrics over labelled data, paired with the fp32 model's own result on each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.criterion import Criterion
from autotune.evaluation.checked import CheckedModel
from autotune.evaluation.samples import SampleStore
from autotune.evaluation.score import Progress, Score, worst
from autotune.evaluation.sources import LabelledData


class SampleScorer:
    """Accuracy by metrics over labelled data."""

    def __init__(
        self,
        source: LabelledData,
        criterion: Criterion,
        inputs: Sequence[TensorSpec],
        *,
        seed: int,
        cache: Path | None,
        key: str,
    ) -> None:
        self._source = source
        self._targets = {source.metrics[0].name: criterion, **source.criteria}
        self._inputs = inputs
        self._store: SampleStore | None = None
        self._records: dict[str, Array] = {}

    def baseline(self, model: CheckedModel, progress: Progress) -> Score:
        source = self._source
        self._store = SampleStore(
            source.loader, self._inputs, labelled=not source.label_free, memory_bytes=source.memory_bytes
        )
        self._records = self._run(model, progress)
        return self._score(self._records)

    def resume(self, figures: Mapping[str, float], model: CheckedModel, progress: Progress) -> None:  # noqa: ARG002
        """Per-sample results from the cache, or computed anew."""
        self.baseline(model, progress)

    def candidate(self, model: CheckedModel, progress: Progress, *, complete: bool) -> Score:
        return self._score(self._run(model, progress))

    def _run(self, model: CheckedModel, progress: Progress) -> dict[str, Array]:
        assert self._store is not None
        parts: dict[str, list[Array]] = {metric.name: [] for metric in self._source.metrics}
        done = 0
        for chunk in self._store.chunks(range(len(self._store.units))):
            outputs = model.run(chunk.feeds)
            for metric in self._source.metrics:
                parts[metric.name].append(metric.records(outputs, chunk.labels, None))
            done += len(chunk.samples)
            progress(done, self._store.total)
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _score(self, records: dict[str, Array]) -> Score:
        assert self._store is not None
        metrics = {metric.name: metric.figure(records[metric.name]) for metric in self._source.metrics}
        base = {metric.name: metric.figure(self._records[metric.name]) for metric in self._source.metrics}
        judged = self._source.metrics[0].name
        losses = {name: (target, target.loss(base[name], metrics[name])) for name, target in self._targets.items()}
        return Score(
            accuracy=metrics[judged],
            loss=losses[judged][1],
            verdict=worst([target.verdict(loss) for target, loss in losses.values()]),
            metrics=metrics,
            samples=self._store.total,
            samples_total=self._store.total,
        )
