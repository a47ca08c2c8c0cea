"""Accuracy sample by sample: metrics over labelled data, paired with the fp32 model's own result on each sample."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.batch import BatchAxes
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import DataError, TrialError
from autotune.evaluation.accuracy.intervals import (
    holdout_confidence,
    interval_confidence,
    mean_loss_interval,
    resampled_loss_interval,
)
from autotune.evaluation.accuracy.metrics import MeanMetric, Metric
from autotune.evaluation.accuracy.records import RecordCache, Records, concatenate
from autotune.evaluation.accuracy.samples import SampleStore
from autotune.evaluation.accuracy.score import Progress, Score, worst
from autotune.evaluation.accuracy.sources import LabelledData
from autotune.evaluation.accuracy.stopping import Outcome, Population, Stop, StoppingRule
from autotune.evaluation.checked import CheckedModel
from autotune.notes import counted

HOLDOUT_SHARE = 0.2
HOLDOUT_FROM = 2000
"""Samples from which a share of them is held out by default."""


class SampleScorer:
    """Accuracy by metrics over labelled data.

    Args:
        source: The data and the metrics.
        criterion: Criterion of the first metric.
        inputs: The inputs of the fp32 model.
        seed: Seed of the holdout, the order of samples and resampling.
        cache: Folder in which the fp32 model's records are kept; None keeps nothing.
        key: Fingerprint of the fp32 model, for the cache.
        axes: Which axes count samples; None: the first one of each input where it is free.
    """

    def __init__(
        self,
        source: LabelledData,
        criterion: Criterion,
        inputs: Sequence[TensorSpec],
        *,
        seed: int,
        cache: Path | None,
        key: str,
        axes: BatchAxes | None = None,
    ) -> None:
        self._source = source
        self._judged = source.metrics[0]
        self._criterion = criterion
        self._targets = {self._judged.name: criterion, **source.criteria}
        self._inputs = inputs
        self._axes = axes
        self._seed = seed
        self._cache = RecordCache(cache, key)
        self._store: SampleStore | None = None
        self._search: Array = np.empty(0, np.int64)
        self._held_out: Array = np.empty(0, np.int64)
        self._baseline: Records | None = None
        self._seen: dict[str, Records] = {}  # by candidate that ended early: what was seen of it

    def baseline(self, model: CheckedModel, progress: Progress) -> Score:
        """Read the data, hold out its share, and record the fp32 model's result on each sample of the rest.

        Raises:
            DataError: The data do not fit the model or the metrics, or leave nothing to evaluate.
            CriterionError: A figure is no baseline for its criterion.
        """
        source = self._source
        self._store = SampleStore(
            source.loader,
            self._inputs,
            labelled=not source.label_free,
            memory_bytes=source.memory_bytes,
            hashed=self._cache.keeps,
            axes=self._axes,
            check=model.require_time,
        )
        self._search, self._held_out = self._split(self._store)
        self._baseline = self._recorded(self._search, model, progress, "search")
        figures = self._figures(self._baseline)
        for metric in source.metrics:
            if metric.undefined and math.isnan(figures[metric.name]):
                raise DataError(f"Metric {metric.name!r} must be defined on the fp32 model, but {metric.undefined}")
        for name, criterion in self._targets.items():
            criterion.check_baseline(figures[name])
        return self._complete(self._baseline, self._baseline, self._targets)

    def resume(self, figures: Mapping[str, float], model: CheckedModel, progress: Progress) -> None:  # noqa: ARG002
        """Take the fp32 model's records from the cache, or compute them anew."""
        self.baseline(model, progress)

    def candidate(self, model: CheckedModel, progress: Progress, *, complete: bool, rank: int) -> Score:
        """Evaluate a candidate on the samples that are not held out, no further than its verdict needs.

        Args:
            model: The candidate.
            progress: Called with the number of samples that are done.
            complete: Whether all samples must be seen.
            rank: Which candidate of the search it is, from 1; how sure its verdict must be follows from it.

        Raises:
            TrialError: A metric is not defined on its outputs.
        """
        assert self._store is not None
        assert self._baseline is not None
        baseline = self._baseline
        targets = {name: criterion.for_candidate(rank) for name, criterion in self._targets.items()}
        rule = None if complete else self._rule(baseline)
        if rule is None:
            return replace(self._complete(baseline, self._rest(model, progress, baseline), targets), rank=rank)
        assert isinstance(self._judged, MeanMetric)
        sign = 1.0 if self._judged.higher_is_better else -1.0
        position = {int(sample): row for row, sample in enumerate(baseline.samples)}
        parts: list[Records] = []
        for chunk in self._store.chunks(self._search[rule.order]):
            outputs = model.run(chunk.feeds)
            rows = np.array([position[int(sample)] for sample in chunk.samples])
            own = Records.make(self._source.metrics, chunk, outputs, baseline.references_of(rows))
            lost = sign * (baseline.of(self._judged)[rows] - own.of(self._judged)).sum(axis=1)
            if not np.isfinite(lost).all():
                raise TrialError(f"Metric {self._judged.name!r} is not defined on the candidate's outputs")
            parts.append(own)
            stop = rule.update(list(lost) if self._store.by_sample else [float(lost.sum())])
            done = sum(len(part.samples) for part in parts)
            progress(done, len(baseline.samples))
            if stop is not None and done < len(baseline.samples):
                if model.key is not None:
                    self._seen[model.key] = concatenate(parts)
                return replace(self._stopped(rule, stop, done, targets[self._judged.name]), rank=rank)
        return replace(self._complete(baseline, concatenate(parts).sorted(), targets), rank=rank)

    @property
    def holds_out(self) -> bool:
        """Whether any samples are held out."""
        return len(self._held_out) > 0

    @property
    def data_fingerprint(self) -> str | None:
        """A hash of all inputs and labels; None before they were read."""
        return None if self._store is None else self._store.fingerprint

    def holdout(self, reference: CheckedModel, model: CheckedModel, progress: Progress, *, rank: int) -> Score | None:
        """Evaluate a candidate on what was held out; None where nothing was.

        Args:
            reference: The fp32 model.
            model: The candidate.
            progress: Called with the number of samples that are done.
            rank: Which candidate it is that is measured there, from 1; its interval is as much wider.
        """
        if not self.holds_out:
            return None
        baseline = self._recorded(self._held_out, reference, progress, "holdout")
        records = self._run(self._held_out, model, progress, baseline)
        return self._complete(baseline, records, self._targets, holdout_rank=rank)

    def _rest(self, model: CheckedModel, progress: Progress, baseline: Records) -> Records:
        """Records of all samples of the search; those that an evaluation saw which ended early are not seen again."""
        assert self._store is not None
        seen = None if model.key is None else self._seen.pop(model.key, None)
        if seen is None:
            return self._run(self._search, model, progress, baseline)
        known = frozenset(seen.samples.tolist())
        left = [unit for unit in self._search if int(self._store.units[unit][0]) not in known]
        rest = self._run(np.array(left, np.int64), model, progress, baseline)
        return concatenate([seen, rest]).sorted()

    def _split(self, store: SampleStore) -> tuple[Array, Array]:
        """Units to search on and units to hold out, drawn at random, both in the loader's order."""
        units = np.arange(len(store.units))
        share = self._source.holdout
        if share is None:
            share = HOLDOUT_SHARE if store.total >= HOLDOUT_FROM else 0.0
        held = round(len(units) * share)
        if share > 0 and not 0 < held < len(units):
            raise DataError(
                f"A holdout of {share:g} must leave samples on both sides, but the evaluation data has "
                f"{counted(store.total, 'sample')} in {counted(len(units), 'part')} that can be "
                f"told apart. Give holdout=0 or more data"
            )
        shuffled = np.random.default_rng([self._seed, 1]).permutation(units)
        return np.sort(shuffled[held:]), np.sort(shuffled[:held])

    def _recorded(self, units: Array, model: CheckedModel, progress: Progress, part: str) -> Records:
        """The fp32 model's records, from the cache where it has them."""
        assert self._store is not None
        about = [metric.identity for metric in self._source.metrics]
        digest = hashlib.sha256(f"{about} {self._store.fingerprint} {units.tolist()}".encode()).hexdigest()[:12]
        found = self._cache.read(f"{part}-{digest}")
        if found is None or not self._are_of(found, units):
            found = self._run(units, model, progress, None)
            self._cache.write(f"{part}-{digest}", found)
        return found

    def _are_of(self, records: Records, units: Array) -> bool:
        """Whether a file's records are those of these samples and metrics, whatever its name says."""
        assert self._store is not None
        samples = sorted(int(sample) for unit in units for sample in self._store.units[unit])
        return sorted(records.samples.tolist()) == samples and set(records.records) == {
            metric.name for metric in self._source.metrics
        }

    def _run(self, units: Array, model: CheckedModel, progress: Progress, baseline: Records | None) -> Records:
        """Records of all samples of ``units`` in the loader's order; ``baseline`` None: these are the baseline's."""
        assert self._store is not None
        parts: list[Records] = []
        done = 0
        total = sum(len(self._store.units[unit]) for unit in units)
        for chunk in self._store.chunks(units):
            outputs = model.run(chunk.feeds)
            references = None
            if baseline is not None:
                references = baseline.references_of(np.searchsorted(baseline.samples, chunk.samples))
            parts.append(Records.make(self._source.metrics, chunk, outputs, references))
            done += len(chunk.samples)
            progress(done, total)
        return concatenate(parts)

    def _rule(self, baseline: Records) -> StoppingRule | None:
        """The rule by which an evaluation may end early; None where nothing can be said before its end."""
        assert self._store is not None
        if not self._source.early_stopping or not isinstance(self._judged, MeanMetric):
            return None
        scores = baseline.of(self._judged)[:, 0]
        starts = np.cumsum([0, *(len(self._store.units[unit]) for unit in self._search)])
        population = Population.make(
            scores,
            [np.arange(start, stop) for start, stop in itertools.pairwise(starts)],
            bounds=self._judged.bounds,
            higher_is_better=self._judged.higher_is_better,
            difficulty=baseline.difficulty,
            any_order=self._store.any_order,
        )
        unit = abs(float(scores.mean())) if self._criterion.relative is not None else 1.0
        return StoppingRule(
            population,
            limit=self._criterion.target * unit * len(scores),
            seed=self._seed,
            # With a confidence the whole set is needed to be met, and so are all figures where several have targets.
            accept=self._source.early_acceptance and self._criterion.confidence is None and len(self._targets) == 1,
        )

    def _stopped(self, rule: StoppingRule, stop: Stop, done: int, criterion: Criterion) -> Score:
        """Score after a part of the samples; ``criterion`` is that of this candidate."""
        assert self._baseline is not None
        scores = self._baseline.of(self._judged)[:, 0]
        total = len(scores)
        lost, variance, squares = rule.estimate()
        reference = float(scores.mean())
        accuracy = reference - lost / total if self._judged.higher_is_better else reference + lost / total
        loss = criterion.loss(reference, accuracy)
        unit = abs(reference) if criterion.relative is not None else 1.0
        confidence = interval_confidence(criterion)
        spread = math.sqrt(max(0.0, squares - lost**2 / total) + variance) / total / unit
        half = NormalDist().inv_cdf((1 + confidence) / 2) * spread
        interval = Interval(low=loss - half, high=loss + half, confidence=confidence)
        reason = None
        verdict = Verdict.MET
        if stop.outcome is Outcome.MISSED:
            verdict = criterion.verdict(loss, interval)
            verdict = Verdict.MISSED if criterion.confidence is None else worst([verdict, Verdict.UNDECIDED])
            sure = "certainly" if stop.certain else "almost certainly"
            reason = f"{sure} misses the target, seen after {done:,} of {counted(total, 'sample')}"
        return Score(
            accuracy=accuracy,
            loss=loss,
            interval=interval,
            verdict=verdict,
            metrics={self._judged.name: accuracy},
            samples=done,
            samples_total=total,
            stopped=reason,
        )

    def _complete(
        self,
        baseline: Records,
        candidate: Records,
        targets: Mapping[str, Criterion],
        *,
        holdout_rank: int | None = None,
    ) -> Score:
        """Score once all samples were seen; with ``holdout_rank``, of those that were held out."""
        before, after = self._figures(baseline), self._figures(candidate)
        if undefined := [name for name, figure in after.items() if not math.isfinite(figure)]:
            raise TrialError(f"Metric {undefined[0]!r} is not defined on these outputs: it is {after[undefined[0]]}")
        losses, intervals, verdicts = {}, {}, []
        for metric in self._source.metrics:
            criterion = targets.get(metric.name)
            if criterion is None:
                continue
            sure = (
                interval_confidence(criterion) if holdout_rank is None else holdout_confidence(criterion, holdout_rank)
            )
            loss = criterion.loss(before[metric.name], after[metric.name])
            interval = self._interval(metric, baseline, candidate, criterion, sure)
            losses[metric.name], intervals[metric.name] = loss, interval
            verdicts.append(criterion.verdict(loss, interval) if holdout_rank is None else criterion.shown(interval))
        return Score(
            accuracy=after[self._judged.name],
            loss=losses[self._judged.name],
            interval=intervals[self._judged.name],
            verdict=worst(verdicts),
            metrics=after,
            samples=len(candidate.samples),
            samples_total=len(baseline.samples),
        )

    def _interval(
        self, metric: Metric, baseline: Records, candidate: Records, criterion: Criterion, confidence: float
    ) -> Interval:
        if baseline is candidate:
            return Interval(low=0.0, high=0.0, confidence=confidence)
        ours, theirs = baseline.of(metric), candidate.of(metric)
        if isinstance(metric, MeanMetric):
            return mean_loss_interval(ours[:, 0], theirs[:, 0], criterion, confidence)
        return resampled_loss_interval(metric, ours, theirs, criterion, confidence, seed=self._seed)

    def _figures(self, records: Records) -> dict[str, float]:
        return {metric.name: metric.figure(records.of(metric)) for metric in self._source.metrics}
