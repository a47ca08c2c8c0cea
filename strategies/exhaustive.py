"""Every config of the space once."""

from __future__ import annotations

import itertools

from autotune.bounds import require_least
from autotune.config import QuantizationConfig
from autotune.errors import StrategyError
from autotune.notes import counted
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal


class Exhaustive(PlannedStrategy):
    """Tries every config of the space once, in a fixed order, the preferred choices first.

    Costs: as many evaluations as the space has configs, which is known before the first one; a space that is too large
    is refused. Choose it for a space restricted to a handful of ops or op groups, where the certainty of having seen
    everything is worth the time.
    """

    def __init__(self, *, limit: int = 10_000) -> None:
        """Choose what is too large.

        Args:
            limit: The largest number of configs that is searched.

        Raises:
            StrategyError: ``limit`` is less than 1.
        """
        super().__init__()
        require_least(1, StrategyError, limit=limit)
        self.limit = limit

    def plan(self, problem: Problem) -> Plan:
        """The product of all choices.

        Raises:
            StrategyError: The space has more than ``limit`` configs.
        """
        space = problem.space
        if space.size > self.limit:
            widest = max(space.ops, key=lambda op: op.size)
            raise StrategyError(
                f"Strategy 'exhaustive' takes spaces of at most {self.limit:,} configs, but this one has "
                f"{_short(space.size)}: {counted(len(space.tunable), 'op')} with up to "
                f"{counted(widest.size, 'choice')} each "
                f"({widest.name}). Restrict the space "
                "(fewer ops, one calibration algorithm, one weight scheme), raise `limit`, or take another strategy"
            )
        number = 0
        for recipe in space.recipe.recipes():
            for choices in itertools.product(*(op.configs() for op in space.ops)):
                number += 1
                ops = {op.name: choice for op, choice in zip(space.ops, choices, strict=True)}
                config = QuantizationConfig(ops=ops, recipe=recipe)
                yield Proposal(config=config, note=f"config {number} of {space.size}")
        return f"exhausted: all {counted(space.size, 'config')} tried"


def _short(count: int) -> str:
    """A count that may be beyond the range of a float."""
    return f"{count:,}" if count < 10**9 else f"about 10^{len(str(count)) - 1}"
