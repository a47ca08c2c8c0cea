"""A sampler that sees the trials of one runtime alone."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SideSampler(BaseSampler):
    """Shows a sampler the trials of one runtime as a study of their own, under the names that its strategy draws.

    In the history parameters have the runtime's name in front of theirs: ops of one name offer different choices on
    different runtimes, and what is fast on one says nothing of another. The sampler is a copy, since some remember
    which parameters a study has, and all that they are to remember is in the study.

    Args:
        inner: Any Optuna sampler.
        prefix: Prefix of this runtime's parameters.
    """

    def __init__(self, inner: BaseSampler, prefix: str) -> None:
        self._inner = copy.deepcopy(inner)
        self._prefix = prefix

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See the inner sampler."""
        found = self._inner.infer_relative_search_space(_SideStudy(study, self._prefix), trial)
        return {self._prefix + name: each for name, each in found.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See the inner sampler."""
        space = _without_prefix(search_space, self._prefix)
        drawn = self._inner.sample_relative(_SideStudy(study, self._prefix), trial, space)
        return {self._prefix + name: value for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See the inner sampler."""
        name = param_name.removeprefix(self._prefix)
        return self._inner.sample_independent(_SideStudy(study, self._prefix), trial, name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See the inner sampler."""
        self._inner.before_trial(_SideStudy(study, self._prefix), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See the inner sampler."""
        self._inner.after_trial(_SideStudy(study, self._prefix), trial, state, values)

    def reseed_rng(self) -> None:
        """See the inner sampler."""
        self._inner.reseed_rng()


class _SideStudy(Study):
    """The same study, of which only the trials of one runtime are seen; what a sampler writes goes into the study."""

    def __init__(self, study: Study, prefix: str) -> None:
        super().__init__(
            study_name=study.study_name, storage=study._storage, sampler=study.sampler, pruner=study.pruner
        )
        self._prefix = prefix

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        # Without the cache, which is this object's own and as short-lived.
        trials = super()._get_trials(deepcopy=deepcopy, states=states, use_cache=False)
        mine = (each for each in trials if any(name.startswith(self._prefix) for name in each.params))
        return [self._renamed(each) for each in mine]

    def _renamed(self, trial: FrozenTrial) -> FrozenTrial:
        renamed = copy.copy(trial)
        renamed._distributions = _without_prefix(trial.distributions, self._prefix)
        renamed._params = _without_prefix(trial.params, self._prefix)
        return renamed


def _without_prefix(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)}
