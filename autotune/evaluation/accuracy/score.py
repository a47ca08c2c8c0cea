"""Scores of accuracy evaluations, and the evaluation of a user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import EvaluationFunctionError, TrialError
from autotune.evaluation.accuracy.sources import UserFunction, read_score
from autotune.evaluation.checked import CheckedModel

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the number of samples that are done, and of all samples where that is known."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracy of one model.

    Attributes:
        accuracy: The judged metric.
        loss: Against the baseline, as the criterion defines it.
        interval: Interval of the loss, where per-sample results are known.
        verdict: The worst over all targets. On data held out it is what the intervals show: missed where one lies
            beyond its target, undecided where one holds it.
        metrics: All figures by name, the judged one included.
        samples: How many samples were evaluated; None where the user's function kept it to itself.
        samples_total: How many a full evaluation has.
        stopped: Why the evaluation ended before all samples were seen; None where it did not.
        rank: Which candidate it was in the order of accuracy evaluations, where the verdict depends on it.
    """

    accuracy: float
    loss: float
    interval: Interval | None = None
    verdict: Verdict
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    samples_total: int | None = None
    stopped: str | None = None
    rank: int | None = None


class Scorer(Protocol):
    """Evaluates accuracy; the baseline first, then any number of candidates against it."""

    @property
    def holds_out(self) -> bool:
        """Whether :meth:`holdout` has anything to evaluate on."""
        ...

    @property
    def data_fingerprint(self) -> str | None:
        """A hash of the data, once the baseline has read them; None where the user's function alone knows them."""
        ...

    def baseline(self, model: CheckedModel, progress: Progress) -> Score:
        """Evaluate the fp32 model."""
        ...

    def resume(self, figures: Mapping[str, float], model: CheckedModel, progress: Progress) -> None:
        """Take the fp32 model's figures from an earlier run, and what else is needed from a cache or the model."""
        ...

    def candidate(self, model: CheckedModel, progress: Progress, *, complete: bool, rank: int) -> Score:
        """Evaluate the ``rank``-th candidate; ``complete`` forbids to end early."""
        ...

    def holdout(self, reference: CheckedModel, model: CheckedModel, progress: Progress, *, rank: int) -> Score | None:
        """Evaluate a candidate on what was held out, the ``rank``-th there; None where nothing was."""
        ...


def worst(verdicts: list[Verdict]) -> Verdict:
    """Missed where any is missed, else undecided where any is undecided, else met."""
    for verdict in (Verdict.MISSED, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.MET


class FunctionScorer:
    """Accuracy by the user's ``eval_fn``."""

    holds_out = False
    data_fingerprint = None

    def __init__(self, source: UserFunction, criterion: Criterion) -> None:
        self._source = source
        self._criterion = criterion
        self._baseline: dict[str, float] | None = None

    def baseline(self, model: CheckedModel, progress: Progress) -> Score:  # noqa: ARG002
        """Call ``eval_fn`` on the fp32 model; its own errors pass through as they are.

        Raises:
            EvaluationFunctionError: The function returned something that is no score.
            CriterionError: The score is no baseline for this criterion.
        """
        figures = read_score(model.judged_by(self._source.function))
        self.restore(figures)
        return self._score(figures)

    def restore(self, figures: Mapping[str, float]) -> None:
        """Take the baseline's figures from an earlier evaluation.

        Raises:
            EvaluationFunctionError: A target names a figure that is not among them.
            CriterionError: A figure is no baseline for its criterion.
        """
        if missing := sorted(set(self._source.criteria) - set(figures)):
            raise EvaluationFunctionError(
                f"eval_fn must return {missing[0]!r}, which has a target, but returned only {sorted(figures)}"
            )
        for name, criterion in self._targets(figures).items():
            criterion.check_baseline(figures[name])
        self._baseline = dict(figures)

    def resume(self, figures: Mapping[str, float], model: CheckedModel, progress: Progress) -> None:  # noqa: ARG002
        """Take the baseline's figures from an earlier run, without a call of ``eval_fn``."""
        self.restore(figures)

    def candidate(self, model: CheckedModel, progress: Progress, *, complete: bool, rank: int) -> Score:  # noqa: ARG002
        """Call ``eval_fn`` on a candidate.

        Raises:
            TrialError: It raised, or returned no score, where it did not on the fp32 model.
        """
        assert self._baseline is not None
        try:
            figures = read_score(model.judged_by(self._source.function))
        except TrialError:
            raise
        except Exception as error:
            model.raise_failure()
            raise TrialError(f"eval_fn failed on this candidate: {type(error).__name__}: {error}") from error
        if set(figures) != set(self._baseline):
            raise TrialError(
                f"eval_fn must return the figures {sorted(self._baseline)}, but returned {sorted(figures)}"
            )
        return self._score(figures)

    def holdout(
        self,
        reference: CheckedModel,  # noqa: ARG002
        model: CheckedModel,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
        *,
        rank: int,  # noqa: ARG002
    ) -> None:
        """Nothing can be held out of data that only the user's function knows."""
        return

    def _targets(self, figures: Mapping[str, float]) -> dict[str, Criterion]:
        return {next(iter(figures)): self._criterion, **self._source.criteria}

    def _score(self, figures: dict[str, float]) -> Score:
        assert self._baseline is not None
        judged = next(iter(self._baseline))
        losses = {
            name: (target, target.loss(self._baseline[name], figures[name]))
            for name, target in self._targets(self._baseline).items()
        }
        return Score(
            accuracy=figures[judged],
            loss=losses[judged][1],
            verdict=worst([target.verdict(loss) for target, loss in losses.values()]),
            metrics=figures,
        )
