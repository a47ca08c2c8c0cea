"""A sampler that sees the best trials and the latest ones, where there are thousands."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

LATEST = 200
"""Trials that a model is made of, beside the best: the time of a TPE grows with their number, that of a Gaussian
process with its third power."""
BEST = 25
"""Trials that TPE takes for good ones, at most."""


class BestTrials:
    """The best trials of a study, each looked at once.

    It is kept between proposals only to save time: what it returns depends on the trials alone.
    """

    def __init__(self) -> None:
        self._last: FrozenTrial | None = None
        self._read = 0
        self._best: list[tuple[tuple[float, bool, float], FrozenTrial]] = []

    def __call__(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """The best of ``trials``, all of which have ended: those that keep their constraints first, then by value."""
        if self._read > len(trials) or (self._read and trials[self._read - 1] is not self._last):
            self._read, self._best = 0, []  # another study
        ended = (each for each in trials[self._read :] if each.state in (TrialState.COMPLETE, TrialState.PRUNED))
        found = [*self._best, *((_rank(trial), trial) for trial in ended)]
        self._best = sorted(found, key=lambda each: (each[0], each[1].number))[:BEST]
        self._read, self._last = len(trials), trials[-1] if trials else None
        return [trial for _, trial in self._best]


def _rank(trial: FrozenTrial) -> tuple[float, bool, float]:
    """Orders trials as TPE does: by how far constraints are missed, pruned ones last, by value."""
    missed = sum(value for value in trial.constraints.values() if value > 0)
    pruned = trial.state is TrialState.PRUNED
    # The history tells the value of a pruned trial as an intermediate one.
    values = list(trial.intermediate_values.values()) if pruned else trial.values
    return missed, pruned, values[-1] if values else float("inf")


class LimitedSampler(BaseSampler):
    """Shows a sampler the :data:`BEST` trials and the :data:`LATEST` ones.

    It serves one trial; which ones it shows is settled when the first value is drawn.

    Args:
        inner: A sampler with a model of the trials.
        best: The best trials of the study.
    """

    def __init__(self, inner: BaseSampler, best: BestTrials) -> None:
        self._inner = inner
        self._best = best
        self._study: Study | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See the inner sampler."""
        return self._inner.infer_relative_search_space(self._limited(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See the inner sampler."""
        return self._inner.sample_relative(self._limited(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See the inner sampler."""
        return self._inner.sample_independent(self._limited(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See the inner sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """See the inner sampler."""
        self._inner.reseed_rng()

    def _limited(self, study: Study) -> Study:
        if self._study is None:
            trials = study._get_trials(deepcopy=False, use_cache=False)
            old = list(itertools.takewhile(lambda trial: trial.state.is_finished(), trials[:-LATEST]))
            self._study = study if not old else _LimitedStudy(study, [*self._best(old), *trials[len(old) :]])
        return self._study


class _LimitedStudy(Study):
    """The same study, of which only some trials are seen."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(
            study_name=study.study_name, storage=study._storage, sampler=study.sampler, pruner=study.pruner
        )
        self._seen = sorted(trials, key=lambda trial: trial.number)

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002  the trials have ended, and samplers read them
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]
