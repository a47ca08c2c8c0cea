"""Measures candidates, cheapest figure first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic

from autotune.adapter import Adapter, Array, Execution, Feeds, FixedThreads, ModelT, Runner, TensorSpec
from autotune.batch import axes_of
from autotune.cores import usable_cores
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import DeadlineReached
from autotune.evaluation.accuracy.score import FunctionScorer, Progress, Score, Scorer
from autotune.evaluation.accuracy.sources import LabelledData, UserFunction, check_direction
from autotune.evaluation.accuracy.streamed import SampleScorer
from autotune.evaluation.accuracy.wide import WideRunner
from autotune.evaluation.checked import CheckedModel, finite_outputs, prove
from autotune.evaluation.latency import (
    Call,
    Clock,
    Comparison,
    LatencyOptions,
    Pace,
    RaceResult,
    SystemClock,
    race_latency,
)
from autotune.evaluation.latency.sessions import open_sessions
from autotune.evaluation.measured import (
    Asked,
    Evaluation,
    measurement,
    not_worth_it,
    timed,
    untimed_baseline,
    with_score,
)
from autotune.trial import Measurement, TrialState

_RACE_SESSIONS = 2
"""Sessions of fp32 and of a finalist that are opened whatever they cost."""


class Evaluator(Generic[ModelT]):
    """Measures candidates against one fp32 model: size, then latency, then accuracy, and no more than is needed.

    Args:
        adapter: Makes models ready to run.
        model: The fp32 model.
        source: Source of the accuracy: a user's function, or metrics over data.
        criterion: The accuracy target.
        latency: How latency is measured.
        feeds: One batch for latency, of ``latency.batch_size`` samples; or several of different shapes, which one
            timed call runs all in this order. The mean over them is reported.
        seed: Seed of the order of calls and samples, and of resampling.
        cache: Folder in which the fp32 model's per-sample results are kept; None keeps nothing.
        on_progress: Called with the number of samples that an accuracy evaluation has seen.
        clock: Times the calls; that of this process by default.

    Raises:
        CriterionError: The metric and the criterion contradict each other.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        model: ModelT,
        source: UserFunction | LabelledData,
        criterion: Criterion,
        latency: LatencyOptions,
        feeds: Feeds | Sequence[Feeds],
        seed: int,
        cache: Path | None = None,
        on_progress: Progress | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_direction(source, criterion)
        self._adapter = adapter
        self._model = model
        self._latency = latency
        self._batches = (feeds,) if isinstance(feeds, Mapping) else tuple(feeds)
        self._feeds = self._batches[-1]
        self._seed = seed
        self._progress: Progress = on_progress or (lambda _done, _total: None)
        self._clock: Clock = clock or SystemClock(latency.threads)
        self._sessions: list[Call] = []
        self._pace = Pace()
        self._runner: Runner | None = None
        self._expected: tuple[Array, ...] = ()
        self._search_latency = latency
        self._scorer: Scorer
        if isinstance(source, UserFunction):
            self._scorer = FunctionScorer(source, criterion)
        else:
            axes, key = axes_of(model), model.fingerprint
            self._scorer = SampleScorer(source, criterion, model.inputs, seed=seed, cache=cache, key=key, axes=axes)

    def baseline(self, *, deadline: float | None = None) -> Measurement:
        """Measure the fp32 model itself; called once, before any candidate.

        Args:
            deadline: A ``time.monotonic()`` value.

        Raises:
            EvaluationFunctionError: ``eval_fn`` returned no score.
            CriterionError: The score is no baseline for the criterion.
            DeadlineReached: The deadline passed before its accuracy was known. Where it passes after that, the
                measurement lacks the latency, which :meth:`complete_baseline` makes up for.
        """
        runner = self._baseline_runner()
        started = self._clock.now_s()
        self._progress(0, None)
        score = self._scorer.baseline(self._checked(self._model, runner, deadline), self._progress)
        self._search_latency = self._latency.priced(self._clock.now_s() - started)
        measured = untimed_baseline(self._model.size_bytes, score, self._latency.confidence)
        try:
            return self.complete_baseline(measured, deadline=deadline)
        except DeadlineReached:
            return measured  # what its accuracy took must not be spent again

    def complete_baseline(self, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """Time the fp32 model where the deadline of an earlier run cut that off; else its figures stay as they are.

        Raises:
            DeadlineReached: The deadline passed.
        """
        if measured.latency_ms is not None:
            return measured
        self._require_time(deadline)
        sessions = self._baseline_sessions()
        # Its speedup is 1 by definition, so that no narrow interval is needed.
        brief = dataclasses.replace(self._search_latency, max_pairs=self._latency.min_pairs)
        comparison = self._comparison(sessions[:1], brief, deadline)
        own = comparison.run()
        comparison.close()
        own = dataclasses.replace(own, candidate_ms=own.baseline_ms, candidate_percentiles=own.baseline_percentiles)
        certain = Interval(low=1.0, high=1.0, confidence=self._latency.confidence)
        own = dataclasses.replace(own, speedup=1.0, interval=certain, decided=True, sessions=len(sessions))
        return timed(measured, own, calls=len(self._batches))

    def resume(self, baseline: Measurement, *, deadline: float | None = None) -> None:
        """Take the fp32 model's figures from an earlier run; called instead of :meth:`baseline`.

        Per-sample results come from the cache; where that is gone they are computed anew.

        Raises:
            CriterionError: The figures are no baseline for the criterion.
            DeadlineReached: The deadline passed.
        """
        model = self._checked(self._model, self._baseline_runner(), deadline)
        self._scorer.resume(baseline.metrics, model, self._progress)

    def prepare(self, *, deadline: float | None = None) -> None:
        """Make ready what no trial should be charged for; called before each trial. Here there is nothing."""

    def close(self) -> None:
        """Release the resources of a run; the evaluator is not used after this. Does nothing here."""

    def evaluate(
        self,
        candidate: ModelT,
        *,
        incumbent: Measurement | None = None,
        needs_accuracy: bool = False,
        rank: int = 1,
        worth_from: float | None = None,
        deadline: float | None = None,
    ) -> Evaluation:
        """Measure a candidate.

        Args:
            candidate: The model to measure.
            incumbent: The fastest so far that keeps the target: a candidate that is proven slower is pruned without
                an accuracy evaluation. None where speed is not the objective.
            needs_accuracy: Evaluate accuracy all the same, and do not end it early.
            rank: Which candidate of the search it is whose accuracy is evaluated, from 1; see
                :meth:`autotune.Criterion.for_candidate`.
            worth_from: Speedup that it must be proven to exceed for its accuracy to be evaluated; None asks for none.
            deadline: A ``time.monotonic()`` value.

        Raises:
            ApplyError: The framework refuses the candidate.
            OutputError: The candidate's outputs are not finite, or of another shape than fp32's.
            TrialError: ``eval_fn`` failed on it.
            DeadlineReached: The deadline passed.
        """
        asked = Asked(incumbent=incumbent, needs_accuracy=needs_accuracy, rank=rank, worth_from=worth_from)
        return self._measured(candidate, asked, None, deadline)

    def speed_of(self, candidate: ModelT, *, deadline: float | None = None) -> Measurement:
        """Time a candidate against the fp32 model, and do no more; raises what :meth:`evaluate` does."""
        sessions = self._opened(candidate, self._search_latency, deadline)[1]
        comparison = self._comparison(sessions, self._search_latency, deadline)
        compared = comparison.run()
        comparison.close()
        return timed(Measurement(), compared, calls=len(self._batches))

    def _measured(self, candidate: ModelT, asked: Asked, score: Score | None, deadline: float | None) -> Evaluation:
        """Measure what is worth it; ``score`` is the accuracy where it is known."""
        runner, sessions = self._opened(candidate, self._search_latency, deadline)
        comparison = self._comparison(sessions, self._search_latency, deadline)
        compared = comparison.run()
        calls = len(self._batches)
        wanted = asked.needs_accuracy or score is not None
        pruned = None if wanted else not_worth_it(compared, asked.incumbent, asked.worth_from)
        if pruned is not None:
            comparison.close()
            figures = measurement(candidate.size_bytes, compared, None, calls=calls)
            return Evaluation(state=TrialState.PRUNED, measurement=figures, reason=pruned)
        if score is None:
            model = self._checked(candidate, runner, deadline)
            score = self._scorer.candidate(model, self._progress, complete=asked.needs_accuracy, rank=asked.rank)
        if asked.incumbent is not None and score.verdict is not Verdict.MISSED:
            # A candidate that may be the answer is timed again, now that some time has passed.
            compared = comparison.again()
        comparison.close()
        return Evaluation(
            state=TrialState.COMPLETED if score.stopped is None else TrialState.PRUNED,
            measurement=measurement(candidate.size_bytes, compared, score, calls=calls),
            reason=score.stopped,
        )

    def race(self, finalists: Sequence[ModelT], *, deadline: float | None = None) -> RaceResult:
        """Run finalists against each other, with the fp32 model among them, until the fastest is known.

        Unlike a comparison of the search, it may take as long as was asked for: its figures are those of the answer.
        Each runs in two sessions or more, opened here: how much sessions differ is part of the intervals.

        Raises:
            ApplyError: The framework refuses one of them.
            DeadlineReached: The deadline passed before anything could be said.
        """
        opened = [self._opened(finalist, self._latency, deadline, fewest=_RACE_SESSIONS)[1] for finalist in finalists]
        fair_s = self._search_latency.max_seconds
        return race_latency(
            self._baseline_sessions(),
            opened,
            self._latency,
            seed=self._seed,
            deadline=deadline,
            clock=self._clock,
            pace=self._pace,
            fair_s=None if fair_s is None else fair_s * len(finalists),
        )

    def open_baseline(self) -> None:
        """Open the sessions of the fp32 model that stay open for the run; they are no candidate's memory."""
        self._baseline_sessions()

    def run_once(self, model: ModelT) -> None:
        """Load a model and run the latency batch: the work during which peak memory is taken.

        Raises:
            ApplyError: The framework refuses the model.
        """
        self._adapter.runner(model, self._latency.execution)(self._feeds)

    def complete(self, candidate: ModelT, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """See the samples that an early accepted candidate was spared; called for the one that is to be the answer.

        Args:
            candidate: The model.
            measured: Its measurement so far; its latency stays as it is.
            deadline: A ``time.monotonic()`` value.

        Raises:
            TrialError: It cannot be evaluated.
            DeadlineReached: The deadline passed.
        """
        if measured.samples == measured.samples_total:
            return measured
        self._require_time(deadline)
        model = self._checked(candidate, self._candidate_runner(candidate), deadline)
        score = self._scorer.candidate(model, self._progress, complete=True, rank=measured.rank or 1)
        return with_score(measured, score)

    def holdout(self, candidate: ModelT, *, rank: int = 1, deadline: float | None = None) -> Measurement | None:
        """Measure a candidate's accuracy on data that the search never saw; None where nothing was held out.

        The best of many is picked with luck, and its figure from the search tells of that luck too.

        Args:
            candidate: The model.
            rank: How many are measured there with this one: each that is measured because the one before it missed
                has as much wider an interval.
            deadline: A ``time.monotonic()`` value.

        Raises:
            TrialError: It cannot be evaluated.
            DeadlineReached: The deadline passed.
        """
        if not self._scorer.holds_out:
            return None
        self._require_time(deadline)
        reference = self._checked(self._model, self._baseline_runner(), deadline)
        model = self._checked(candidate, self._candidate_runner(candidate), deadline)
        score = self._scorer.holdout(reference, model, self._progress, rank=rank)
        return None if score is None else with_score(Measurement(size_bytes=candidate.size_bytes), score)

    @property
    def holds_out(self) -> bool:
        """Whether there is data that the search never sees."""
        return self._scorer.holds_out

    @property
    def data_fingerprint(self) -> str | None:
        """A hash of the evaluation data, once fp32 was measured; None where ``eval_fn`` alone knows them."""
        return self._scorer.data_fingerprint

    def _require_time(self, deadline: float | None) -> None:
        """See that there is time left before sessions are opened, which takes seconds on a busy machine."""
        if deadline is not None and self._clock.now_s() >= deadline:
            raise DeadlineReached("The time given to the run was up before a model was opened")

    def _baseline_runner(self) -> Runner:
        if self._runner is None:
            self._runner = self._adapter.runner(self._model, self._latency.execution)
            self._expected = self._runner(self._feeds)
        return self._runner

    def _baseline_sessions(self) -> Sequence[Call]:
        """Sessions of the fp32 model, opened once and used by all comparisons of a run."""
        if not self._sessions:
            runner = self._baseline_runner()
            self._sessions = self._calls(self._model, runner, self._latency, fewest=_RACE_SESSIONS, spare_first=True)
        return self._sessions

    def _opened(
        self, candidate: ModelT, options: LatencyOptions, deadline: float | None, *, fewest: int = 1
    ) -> tuple[Runner, Sequence[Call]]:
        """A candidate made ready to run, and its sessions, the first of which is the runner."""
        self._require_time(deadline)
        runner = self._candidate_runner(candidate)
        return runner, self._calls(candidate, runner, options, fewest=fewest)

    def _calls(
        self, model: ModelT, runner: Runner, options: LatencyOptions, *, fewest: int, spare_first: bool = False
    ) -> list[Call]:
        return open_sessions(
            runner,
            lambda: self._adapter.runner(model, self._latency.execution),
            self._batches,
            options,
            size_bytes=model.size_bytes,
            fewest=fewest,
            clock=self._clock,
            spare_first=spare_first,
        )

    def _comparison(self, sessions: Sequence[Call], options: LatencyOptions, deadline: float | None) -> Comparison:
        return Comparison(
            self._baseline_sessions(),
            sessions,
            options,
            seed=self._seed,
            deadline=deadline,
            clock=self._clock,
            pace=self._pace,
        )

    def _candidate_runner(self, candidate: ModelT) -> Runner:
        """A candidate made ready to run, its outputs checked."""
        self._baseline_runner()
        return self._proven(self._adapter.runner(candidate, self._latency.execution))

    def _proven(self, runner: Runner) -> Runner:
        """The same, once its outputs on the latency batch are seen to be of fp32's shapes, and finite like those."""
        prove(runner, self._feeds, self._model.outputs, self._expected)
        return runner

    def _outputs(self) -> list[TensorSpec]:
        """The outputs with the dimensions that fp32's have in truth: some exporters declare others."""
        pairs = zip(self._model.outputs, self._expected, strict=True)
        return [dataclasses.replace(spec, shape=(None,) * output.ndim) for spec, output in pairs]

    def _checked(
        self, model: ModelT, runner: Runner, deadline: float | None, wide: Callable[[Execution], Runner] | None = None
    ) -> CheckedModel:
        """A model as it is scored; ``wide`` opens it on more threads where that is not by the adapter's ``runner``."""
        cores = len(usable_cores())
        if cores > self._latency.threads and not isinstance(runner, FixedThreads):
            execution = Execution(threads=cores)
            runner = WideRunner(
                runner, lambda: self._adapter.runner(model, execution) if wide is None else wide(execution)
            )
        return CheckedModel(
            runner,
            inputs=self._model.inputs,
            outputs=self._outputs(),
            deadline=deadline,
            finite=finite_outputs(self._model.outputs, self._expected),
            key=model.fingerprint,
        )
