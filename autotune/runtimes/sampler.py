"""A sampler that sees the trials of one runtime alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SideSampler(BaseSampler):
    """Shows a sampler the trials of one runtime as a study of their own, under the names that its strategy draws.

    In the history parameters have the runtime's name in front of theirs: ops of one name offer different choices on
    different runtimes, and what is fast on one says nothing of another.

    Args:
        inner: Any Optuna sampler.
        prefix: What the parameters of this runtime begin with.
    """

    def __init__(self, inner: BaseSampler, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix
        self._study: Study | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See the inner sampler."""
        found = self._inner.infer_relative_search_space(self._view(study), trial)
        return {self._prefix + name: each for name, each in found.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See the inner sampler."""
        drawn = self._inner.sample_relative(self._view(study), trial, self._without_prefix(search_space))
        return {self._prefix + name: value for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See the inner sampler."""
        name = param_name.removeprefix(self._prefix)
        return self._inner.sample_independent(self._view(study), trial, name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See the inner sampler; the view is made anew for each trial."""
        self._study = None
        self._inner.before_trial(self._view(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See the inner sampler."""
        self._inner.after_trial(self._view(study), trial, state, values)

    def reseed_rng(self) -> None:
        """See the inner sampler."""
        self._inner.reseed_rng()

    def _without_prefix(self, named: Mapping[str, Any]) -> dict[str, Any]:
        return {name.removeprefix(self._prefix): each for name, each in named.items() if name.startswith(self._prefix)}

    def _view(self, study: Study) -> Study:
        """The trials of this runtime that are finished, in a study that lives in memory."""
        if self._study is None:
            view = optuna.create_study(directions=study.directions, sampler=self._inner)
            for trial in study.get_trials(deepcopy=False):
                params = self._without_prefix(trial.params)
                if not trial.state.is_finished() or not params:
                    continue
                view.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        values=trial.values if trial.state is TrialState.COMPLETE else None,
                        params=params,
                        distributions=self._without_prefix(trial.distributions),
                        user_attrs=trial.user_attrs,
                        system_attrs=trial.system_attrs,
                        intermediate_values=trial.intermediate_values,
                    )
                )
            self._study = view
        return self._study
