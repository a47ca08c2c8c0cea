"""Which candidates are trained where no post-training one keeps the target, and their trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Verdict
from autotune.recipe import BiasCorrection, Recipe, SmoothQuant, WeightRounding
from autotune.strategy import Objective, Proposal
from autotune.trial import Trial, TrialState
from autotune.tuning.selection import conclude, faster, objective_of

if TYPE_CHECKING:
    from autotune.tuning.search import Search
    from autotune.tuning.setup import Setup

_WORTH = 1.1
"""Up to this factor from the best one, speed is given away for a smaller loss to begin with."""

_ROUNDED_IN_TRAINING = frozenset({Precision.INT8, Precision.FP16, Precision.BF16})
"""Precisions that training allows for: int8 is rounded as the runtime does; half precision costs next to nothing."""


def train_where_missed(setup: Setup[Any], search: Search[Any], note: Callable[[str], None]) -> None:
    """Train where every post-training candidate misses the target: at most two configs, one after the other.

    The first is the one that loses least among those that are about as fast as the fastest, since training mends much;
    where it does not mend enough, the second is the one that loses least of all.

    Args:
        setup: The run's objects.
        search: Measures what was trained as any trial.
        note: Told what the user should know.

    Raises:
        DeadlineReached: The time was up before training could begin.
    """
    training = setup.training
    if training is None:
        return
    trials, objective = setup.history.trials, setup.objective
    post_training = [trial for trial in trials if not (trial.config.trained or trial.config.prepared)]
    if conclude(post_training, objective).verdict is not Verdict.MISSED:
        return
    offered = [side.runtime for side in setup.sides if training.offered(side)]
    chosen = worth_training([trial for trial in trials if trial.config.runtime in offered], objective)
    if offered and not chosen:
        note("No candidate can be trained: none has int8 ops with ranges from calibration and is faster than fp32")
    for trial in chosen:
        if any(each.met and each.config.trained for each in setup.history.trials):
            return
        config = trained_config(trial.config)
        if any(each.config == config and each.state is not TrialState.FAILED for each in setup.history.trials):
            continue
        side = setup.side_of(trial)
        search.attempt(
            Proposal(config=config, note=f"trial {trial.number}, trained"), side, partial(training.model, side, config)
        )


def worth_training(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The candidates to train, in this order; at most two.

    Args:
        trials: Those of runtimes on which candidates can be trained.
        objective: The figure to minimise.
    """
    known = [trial for trial in trials if _can_be_trained(trial, objective)]
    if not known:
        return []
    best = min(objective_of(trial, objective) for trial in known)
    fast = [trial for trial in known if objective_of(trial, objective) <= _WORTH * best]
    found: dict[QuantizationConfig, Trial] = {}
    for among in (fast, known):
        trial = min(among, key=lambda trial: (_loss(trial), objective_of(trial, objective)))
        found.setdefault(trained_config(trial.config), trial)
    return list(found.values())


def trained_config(config: QuantizationConfig) -> QuantizationConfig:
    """The config of a candidate after training: with its grids, and without what changes channels or constants.

    Training does what these recipes do, and a scale that was moved between channels would be moved anew after it.
    """
    recipe: Recipe = dataclasses.replace(
        config.recipe,
        equalization=False,
        smooth_quant=SmoothQuant.NONE,
        bias_correction=BiasCorrection.NONE,
        weight_rounding=WeightRounding.NEAREST,
    )
    return dataclasses.replace(config, recipe=recipe, trained=True)


def _can_be_trained(trial: Trial, objective: Objective) -> bool:
    precisions = set(trial.config.precisions())
    return (
        trial.state in (TrialState.COMPLETED, TrialState.PRUNED)
        and trial.same_as is None
        and trial.loss is not None
        and not trial.config.trained
        and Precision.INT8 in precisions
        and precisions <= _ROUNDED_IN_TRAINING
        and (objective is not Objective.LATENCY or faster(trial) is not False)
    )


def _loss(trial: Trial) -> float:
    assert trial.loss is not None
    return trial.loss
