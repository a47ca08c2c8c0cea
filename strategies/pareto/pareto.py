"""The trade-off itself: latency, loss and size at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from optuna.distributions import IntDistribution

from autotune.bounds import require_least
from autotune.errors import StrategyError
from autotune.notes import counted
from autotune.strategies.pareto.genetics import Generation, child, drawn
from autotune.strategies.planning.moves import uniform_configs
from autotune.strategy import Draw, Exhausted, Objective, Problem, Proposal, Strategy
from autotune.trial import Trial, TrialState
from autotune.tuning.stored_trials import objective_value

_SEED = "pareto/seed"
"""The one parameter that is drawn: a generator made from it does all that is left to chance in a proposal."""

_ATTEMPTS = 200
"""Children that may be configs tried before, each mutated more than the one before, until the search ends."""


class Pareto(Strategy):
    """NSGA-II over latency, loss and size; what it leaves is the front, ``TuningResult.pareto``.

    The target plays no part in the search, so that the front shows what a looser or a stricter one would give. It works
    on configs: crossover takes each op's whole choice from one of two parents, mutation gives an op another one. A
    generation is the best ``population`` of all trials so far, by fronts and then by crowding distance, and gets one
    child at a time (Durillo et al., EMO 2009), so that workers need not wait for each other. It begins with the fp32
    model, with configs that treat all ops alike, and with random ones of which any share of the ops is in fp32.

    Costs: as many evaluations as it is given; nothing is learnt before the first ``population`` of them, and each
    candidate's accuracy is evaluated in full. Choose it with hundreds of cheap evaluations, to see the trade-off before
    a target is decided on.

    Paper: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE TEVC 6(2), 2002.
    """

    multi_objective: ClassVar[bool] = True

    def __init__(self, *, population: int = 20) -> None:
        """Choose the size of a generation.

        Args:
            population: Candidates per generation.

        Raises:
            StrategyError: ``population`` is less than 2.
        """
        require_least(2, StrategyError, population=population)
        self.population = population

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """One of the first configs, or a child of the current generation."""
        space = problem.space
        tried = {trial.config.fingerprint for trial in trials}
        if len(tried) >= space.size:
            return Exhausted(reason=f"exhausted: all {counted(space.size, 'config')} tried")
        rng = np.random.default_rng(draw({_SEED: IntDistribution(0, 2**31 - 1)})[_SEED])
        if len(trials) <= self.population // 2:
            for config, note in uniform_configs(space):
                if config.fingerprint not in tried:
                    return Proposal(config=config, note=note, needs_accuracy=True)
        measured = [(trial.config, values) for trial in trials if (values := _values(trial)) is not None]
        parents = None
        if len(trials) > self.population and len(measured) >= 2:
            parents = Generation(measured, self.population)
        for attempt in range(_ATTEMPTS):
            if parents is None:
                config, note = drawn(space, rng), "drawn at random"
            else:
                config, note = child(space, *parents.pair(rng), rng, mutations=attempt), "a child of the front"
            if config.fingerprint not in tried:
                return Proposal(config=config, note=note, needs_accuracy=True)
        return Exhausted(reason=f"exhausted: {_ATTEMPTS} children in a row were configs tried before")


def _values(trial: Trial) -> tuple[float, float, float] | None:
    """Latency as a share of the baseline's, loss, and size; None where one was not measured."""
    measured = trial.measurement
    if trial.state is not TrialState.COMPLETED or measured is None:
        return None
    latency = objective_value(measured, Objective.LATENCY)
    if latency is None or measured.loss is None or measured.size_bytes is None:
        return None
    return latency, measured.loss, float(measured.size_bytes)
