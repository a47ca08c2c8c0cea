"""Measures candidates that have to be compiled: accuracy first, since it is cheaper than a compiler."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from autotune.adapter import Array, Compiles, ModelT, Runner
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, TrialError
from autotune.evaluation.evaluator import Evaluator
from autotune.evaluation.measured import Asked, Evaluation, with_score
from autotune.trial import Measurement, TrialState

_SAME = 1e-3
"""Squared difference of two forms of one model, as a share of the outputs' squared spread, up to which they are taken
to compute the same. Activations that fall to the other side of a rounding make 1e-5 in ResNet-20, where 30 % of the
images have one; a kernel that overflows, or that misses a scale, makes more than 1e-2."""


class CompilingEvaluator(Evaluator[ModelT]):
    """An :class:`Evaluator` for an adapter whose runners are compiled; see :class:`autotune.adapter.Compiles`.

    A candidate that is compiled already is measured in the usual order. For any other, accuracy is judged on its quick
    form, and it is compiled only where that does not miss the target. Both forms then have to compute the same on the
    batch that latency is measured on; else accuracy is evaluated on the compiled one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert isinstance(self._adapter, Compiles)
        self._compiles: Compiles = self._adapter
        self._shortest_s: float | None = None

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
        """Measure a candidate; see :meth:`Evaluator.evaluate`.

        Raises:
            ApplyError: The framework refuses the candidate.
            OutputError: Its outputs are not finite, or of another shape than fp32's.
            TrialError: ``eval_fn`` failed on it.
            DeadlineReached: The deadline passed, or is too near to compile the candidate.
        """
        if self._compiles.is_compiled(candidate):
            return super().evaluate(
                candidate,
                incumbent=incumbent,
                needs_accuracy=needs_accuracy,
                rank=rank,
                worth_from=worth_from,
                deadline=deadline,
            )
        asked = Asked(incumbent=incumbent, needs_accuracy=needs_accuracy, rank=rank, worth_from=worth_from)
        self._require_time(deadline)
        self._baseline_runner()
        quick = self._proven(self._compiles.quick_runner(candidate, self._latency.execution))
        model = self._checked(
            candidate, quick, deadline, wide=lambda execution: self._compiles.quick_runner(candidate, execution)
        )
        score = self._scorer.candidate(model, self._progress, complete=needs_accuracy, rank=rank)
        if score.verdict is Verdict.MISSED:
            reason = score.stopped or "it misses the target, so that it was not compiled"
            return Evaluation(state=TrialState.PRUNED, measurement=with_score(Measurement(), score), reason=reason)
        compiled, seconds = self._compiled(candidate, deadline)
        known = score if self._same(quick, compiled) else None
        return dataclasses.replace(self._measured(candidate, asked, known, deadline), compiled_s=seconds)

    def speed_of(self, candidate: ModelT, *, deadline: float | None = None) -> Measurement:
        """Compile a candidate where it is not yet, and time it; see :meth:`Evaluator.speed_of`."""
        self._require_time(deadline)
        self._compiled(candidate, deadline)
        return super().speed_of(candidate, deadline=deadline)

    def run_once(self, model: ModelT) -> None:
        """Load a model and run the latency batch, in its quick form where it is not compiled.

        Raises:
            ApplyError: The framework refuses the model.
        """
        if self._compiles.is_compiled(model):
            super().run_once(model)
        else:
            self._compiles.quick_runner(model, self._latency.execution)(self._feeds)

    def _baseline_runner(self) -> Runner:
        if self._runner is None:
            self._timed_compilation(self._model, super()._baseline_runner)
        return super()._baseline_runner()

    def _compiled(self, candidate: ModelT, deadline: float | None) -> tuple[Runner, float]:
        """A candidate compiled and made ready to run, and what that took in seconds.

        Raises:
            DeadlineReached: The deadline is nearer than any compilation so far took.
        """
        left = None if deadline is None else deadline - self._clock.now_s()
        if left is not None and self._shortest_s is not None and left < self._shortest_s:
            raise DeadlineReached(
                f"Compiling takes {self._shortest_s:.0f} s or more, and {max(0.0, left):.0f} s were left"
            )
        self._baseline_runner()
        return self._timed_compilation(candidate, lambda: self._candidate_runner(candidate))

    def _timed_compilation(self, model: ModelT, open_one: Any) -> tuple[Runner, float]:
        new = not self._compiles.is_compiled(model)
        started = self._clock.now_s()
        try:
            runner = open_one()
        except TrialError as error:
            error.compiled_s = self._clock.now_s() - started if new else None
            raise
        seconds = self._clock.now_s() - started
        if new:
            self._shortest_s = min(seconds, self._shortest_s or seconds)
        return runner, seconds

    def _same(self, quick: Runner, compiled: Runner) -> bool:
        """Whether both forms of a candidate compute the same on the latency batch, but for rounding."""
        pairs = zip(quick(self._feeds), compiled(self._feeds), strict=True)
        return all(_difference(first, second) <= _SAME for first, second in pairs)


def _difference(first: Array, second: Array) -> float:
    """Squared difference over squared spread; of integers, the share of those that differ."""
    if first.dtype.kind != "f":
        return float(np.mean(first != second)) if first.size else 0.0
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(finite, np.isfinite(first)):
        return np.inf
    one, other = (np.asarray(each[finite], np.float64) for each in (first, second))
    if not one.size:
        return 0.0
    noise = float(np.square(one - other).mean())
    spread = float(np.square(one - one.mean()).mean()) or float(np.square(one).mean())
    return 0.0 if noise == 0.0 else noise / spread if spread else np.inf


def evaluator_of(**options: Any) -> Evaluator[Any]:
    """The evaluator that an adapter asks for; the arguments are those of :class:`Evaluator`."""
    kind = CompilingEvaluator if isinstance(options["adapter"], Compiles) else Evaluator
    made: Evaluator[Any] = kind(**options)
    return made
