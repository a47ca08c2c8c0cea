"""The default: start with what the profile says is fastest, then measure only what is predicted to win."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.config import OpConfig, QuantizationConfig
from autotune.errors import StrategyError
from autotune.strategies.estimates import Estimates
from autotune.strategies.loss_model import Template
from autotune.strategies.moves import uniform_configs
from autotune.strategies.replay import Plan, PlannedStrategy
from autotune.strategies.shrink import shrink, stores_in_bits
from autotune.strategy import Objective, Problem, Proposal

_MOST_MISSES = 8
"""After as many halvings the loss allowed for is 1/256 of the target."""

_FOCUS = 12
"""How many ops, the most sensitive ones, are looked at one by one under another calibration."""

_ABOUT = 1.1
"""Output errors within this factor say nothing of which loss is smaller."""


class Auto(PlannedStrategy):
    """Starts with what the profile says is fastest; then measures what promises most, and corrects its predictions.

    1. The preferred config is evaluated, with those ops in fp32 that are faster there. If it keeps the target, only
       configs that are predicted to be faster still are of interest, and sensitivities are not needed.
    2. Otherwise the calibration algorithm and weight scheme are those whose uniform config has the least output error
       on a few samples; the most sensitive ops may keep others. No evaluation is spent on it.
    3. The loss of a config is predicted as the sum of its int8 ops' output errors, its cost as the sum of the profiled
       times of its ops and of the conversions between them. Bayesian regression corrects both after each evaluation.
    4. The choice of ops in fp32 with the largest product of predicted gain and probability of keeping the target is
       next. Candidates come from an integer program (least cost, loss within a budget). The output error of the choice
       on a few samples must agree with what was predicted; otherwise that is corrected and another choice made.
    5. As long as nothing keeps the target, from the third miss on each halves the loss that is allowed for, so that it
       is a bisection along a path of good configs where the prediction of losses is of no use. It ends when nothing
       promises enough, or ``patience`` candidates in a row did not win.

    Where size is the objective and weights can be stored in fewer bits alone, it bisects from the smallest config on
    instead, see :mod:`autotune.strategies.shrink`.

    Costs: one evaluation where the first config keeps the target, typically 2 to 8 otherwise, however many ops there
    are; the sensitivities cost a pass of a few samples for each op. Choose it always, unless the point is to compare
    with something else.

    Builds on: noise-to-signal ratios that add up and integer programs over them (HAWQ-V3, arXiv 2011.10680; NVIDIA
    ModelOpt's auto_quantize), bisection along a sensitivity order (arXiv 2302.01382), probability of feasibility
    (Gardner et al., ICML 2014).
    """

    def __init__(self, *, patience: int = 6, templates: int = 8) -> None:
        """Choose how persistent the search is.

        Args:
            patience: How many candidates in a row may fail to improve on the best before it ends.
            templates: How many uniform configs compete by output error.

        Raises:
            StrategyError: One of them is less than 1.
        """
        super().__init__()
        for name, value in (("patience", patience), ("templates", templates)):
            if value < 1:
                raise StrategyError(f"`{name} >= 1` must hold, but got {value}")
        self.patience = patience
        self.templates = templates

    def plan(self, problem: Problem) -> Plan:
        """The fastest config, then what promises most until nothing does."""
        baseline = yield Proposal(config=QuantizationConfig(), note="fp32 baseline")
        if problem.objective is Objective.SIZE and stores_in_bits(problem.space):
            return (yield from shrink(problem))
        estimates = Estimates(problem, baseline)
        fp32 = estimates.fastest()
        note = f"{int(fp32.sum())} ops in fp32 that are faster there" if fp32.any() else "every op as preferred"
        trial = yield Proposal(config=estimates.config(fp32), note=note, needs_accuracy=True)
        estimates.add(fp32, trial)
        if not trial.met:
            fast = [op for op, flag in zip(estimates.ops, fp32, strict=True) if flag]
            estimates.use(_template(problem, estimates.ops, fast, self.templates))
        idle = misses = 0
        while (choice := estimates.next(idle)) is not None:
            loss = estimates.predicted_loss(choice)
            note = f"{int(choice.sum())} of {len(choice)} ops in fp32, predicted loss {loss:.2%}"
            trial = yield Proposal(config=estimates.config(choice), note=note)
            if estimates.add(choice, trial):
                idle = 0
            elif estimates.won:
                idle += 1
            else:
                misses += 1
            if idle >= self.patience:
                return f"target met, and the last {idle} candidates predicted to be faster did not win"
            if misses >= _MOST_MISSES:
                return f"target missed by {misses} candidates, with ever less int8"
        return estimates.reason()


def _template(problem: Problem, ops: Sequence[str], fast: Sequence[str], templates: int) -> Template:
    """The config with the least output error among the uniform ones and a mixture of two of them.

    Only those compete that compute as the preferred one does and share its recipe, since nothing is known of their
    speed, and with the ops that are faster in fp32 left there. In the mixture the most sensitive ops take the
    calibration and weight scheme that disturb less when they alone are in int8. Recipes that take seconds to apply are
    left out of the comparison, as they are of the sensitivities.
    """
    preferred = problem.space.preferred
    quick = preferred.recipe.quick
    own = problem.insights.sensitivity()
    errors = {op: own.get(op, 0.0) for op in ops}
    alike = [
        config
        for config, _ in uniform_configs(problem.space)
        if config.recipe == preferred.recipe
        and all(config[op].activation == preferred[op].activation for op in preferred.ops)
    ][:templates]
    if len(alike) < 2:
        return Template(config=preferred, errors=errors, preferred_errors=errors)

    def error_of(choices: Mapping[str, OpConfig]) -> float:
        kept = {op: choice for op, choice in choices.items() if op not in fast}
        return problem.insights.output_error(QuantizationConfig(ops=kept, recipe=quick))

    whole = [error_of(config.ops) for config in alike]
    # The preferred one has been measured and missed: one that is about as good deserves its turn.
    whole[0] *= _ABOUT
    best = alike[int(np.argmin(whole))]
    if best == preferred:
        return Template(config=best, errors=errors, preferred_errors=errors)
    share = min(whole) / whole[0] if math.isfinite(whole[0]) and whole[0] > 0 else 1.0
    focus = sorted((op for op in ops if op not in fast), key=lambda op: -errors[op])[:_FOCUS]
    single = {op: errors[op] * share for op in ops} | {op: error_of({op: best[op]}) for op in focus}
    better = [op for op in focus if errors[op] < single[op]]
    mixed = best.replace({op: preferred[op] for op in better})
    if better and error_of(mixed.ops) < min(whole):
        best = mixed
        single.update({op: errors[op] for op in better})
    return Template(config=best, errors=single, preferred_errors=errors)
