"""The trade-off itself: latency, loss and size at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from optuna.samplers import BaseSampler, NSGAIISampler

from autotune.errors import StrategyError
from autotune.strategies.optuna_sampler import OptunaSampler
from autotune.strategy import Draw, Exhausted, Problem, Proposal
from autotune.trial import Trial


class Pareto(OptunaSampler):
    """NSGA-II over latency, loss and size; what it leaves is the front, ``TuningResult.pareto``.

    The target plays no part in the search, so that the front shows what a looser or a stricter one would give. Each
    field of every op is a parameter, since crossover mixes whole configs and suffers less from many dimensions than a
    model does.

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
        if population < 2:
            raise StrategyError(f"`population >= 2` must hold, but got {population}")
        super().__init__(NSGAIISampler(population_size=population, seed=0))
        self.population = population

    def sampler(self, problem: Problem, seed: int) -> BaseSampler:  # noqa: ARG002
        """NSGA-II, whose generations are in the study."""
        return NSGAIISampler(population_size=self.population, seed=seed)

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """A child of the current generation."""
        proposal = super().propose(problem, trials, draw)
        if isinstance(proposal, Exhausted):
            return proposal
        return Proposal(config=proposal.config, note=proposal.note, needs_accuracy=True)
