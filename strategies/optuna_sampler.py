"""Any Optuna sampler as a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autotune.errors import StrategyError
from autotune.space import TuningSpace
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial

_STOPPED = "autotune:sampler_stopped"


class OptunaSampler(Strategy):
    """Lets an Optuna sampler choose every field of every op, and of the recipe.

    The sampler sees a parameter for each field that has more than one value, the objective as the value, and the loss
    beyond the target as a constraint (``trial.constraints``, which every constraint-aware sampler of Optuna reads since
    5.0 without a ``constraints_func``). Parameters are categorical; samplers that know only numbers (CMA-ES) get the
    position of the value in its list instead.

    Costs: as many evaluations as it is given; a grid ends by itself. (Brute force is taken over by ``exhaustive``.)
    Choose it for research on samplers, or where a sampler is known to suit the problem. With one parameter per
    field of every op a space has hundreds of dimensions, in which no model-based sampler learns much in a few dozen
    trials; ``bayesian`` searches a few dimensions instead.
    """

    def __init__(self, sampler: BaseSampler, *, ordinal: bool | None = None) -> None:
        """Wrap a sampler.

        Args:
            sampler: Its generators are seeded anew for every trial, from the run's seed and the trial's number, so
                that a resumed run does not draw its first points again; the seed it was made with has no effect.
            ordinal: Give the sampler positions instead of categories. Without it, only CMA-ES gets positions.
        """
        self.inner = sampler
        self.ordinal = isinstance(sampler, CmaEsSampler) if ordinal is None else ordinal

    def sampler(self, problem: Problem, seed: int) -> BaseSampler:  # noqa: ARG002
        """The sampler, kept from ending the process that drives it."""
        _seed(self.inner, seed)
        return AskTellSampler(self.inner)

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """Draw every parameter and decode them."""
        categorical = problem.space.distributions()
        if not categorical and len(trials) > 1:
            return Exhausted(reason="exhausted: the space holds a single config")
        distributions = _positions(categorical) if self.ordinal else categorical
        try:
            params = draw(distributions)
        except SamplerStopped:
            return Exhausted(reason=f"exhausted: {type(self.inner).__name__} has proposed everything it would")
        except ValueError as error:
            raise StrategyError(
                f"{type(self.inner).__name__} cannot draw the parameters of this space: {error}. "
                f"They are: {', '.join(distributions)}"
            ) from error
        if self.ordinal:
            params = {name: _at(categorical[name], position) for name, position in params.items()}
        return Proposal(config=problem.space.decode(params), note=f"drawn by {type(self.inner).__name__}")


class SamplerStopped(Exception):  # a signal, as StopIteration is
    """An enumerating sampler is asked for more after it called ``Study.stop``."""


class AskTellSampler(BaseSampler):
    """A sampler that may call ``Study.stop``, under ask and tell.

    Outside of ``Study.optimize`` that call raises a RuntimeError from ``Study.tell`` (the grid sampler does it after
    its last point). Here it is noted in the study instead, and the next draw raises :class:`SamplerStopped`.
    """

    def __init__(self, inner: BaseSampler) -> None:
        self._inner = inner

    def reseed_rng(self) -> None:
        """See the wrapped sampler."""
        self._inner.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See the wrapped sampler; nothing once it has stopped, so that every draw is an independent one."""
        return {} if _stopped(study) else self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See the wrapped sampler."""
        return {} if _stopped(study) else self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See the wrapped sampler.

        Raises:
            SamplerStopped: It has ended.
        """
        if _stopped(study):
            raise SamplerStopped
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See the wrapped sampler."""
        if not _stopped(study):
            self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See the wrapped sampler; a call of ``Study.stop`` becomes a note in the study."""
        if _stopped(study):
            return
        try:
            self._inner.after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            study.set_user_attr(_STOPPED, value=True)


def _seed(sampler: BaseSampler, seed: int) -> None:
    """Seed every generator of a sampler and of the samplers inside it.

    ``BaseSampler.reseed_rng`` takes no seed. The generators lie behind an attribute ``rng`` in all samplers of Optuna.
    """
    for value in vars(sampler).values():
        generator = getattr(value, "rng", None)
        if isinstance(value, BaseSampler):
            _seed(value, seed)
        elif isinstance(generator, np.random.RandomState):
            generator.seed(seed % 2**32)


def _stopped(study: Study) -> bool:
    return bool(study.user_attrs.get(_STOPPED, False))


def _positions(categorical: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    return {
        name: IntDistribution(0, len(distribution.choices) - 1)
        for name, distribution in categorical.items()
        if isinstance(distribution, CategoricalDistribution)
    }


def _at(distribution: BaseDistribution, position: int) -> Any:
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices[position]


def space_of_grid(space: TuningSpace) -> dict[str, list[Any]]:
    """The search space to give to ``optuna.samplers.GridSampler``: every value of every parameter."""
    return {
        name: list(distribution.choices)
        for name, distribution in space.distributions().items()
        if isinstance(distribution, CategoricalDistribution)
    }
