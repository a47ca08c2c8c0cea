"""Model-based search of a few dimensions that matter, then around the best."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler

from autotune.bounds import require_least
from autotune.config import FP32, CalibrationAlgorithm, OpConfig, QuantizationConfig, TensorScheme
from autotune.errors import MissingDependencyError, StrategyError
from autotune.notes import counted
from autotune.space import TuningSpace
from autotune.strategies.planning.limited import BestTrials, LimitedSampler
from autotune.strategies.planning.moves import cost_of, fallback_order, loss_of
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial, TrialState

_PAIRED = 12
"""How many ops around the drawn one are tried in pairs."""

_AXES = {"activation": "activations", "weight": "weights", "calibration": "algorithms"}


class Bayesian(Strategy):
    """Optuna's TPE, or a Gaussian process, over a handful of parameters for the whole model; then single ops.

    One parameter per field of every op drowns any model-based search: hundreds of dimensions, a few dozen trials. This
    strategy searches instead: how many ops are in fp32, counted along the sensitivity order; the calibration algorithm,
    the weight and the activation scheme that all int8 ops share; the recipe. The objective is minimised with the
    accuracy target as a constraint. After ``explore`` trials every second one refines the best so far: it moves one op
    near the boundary of the order to the other precision, or gives it another choice; which op and which choice are
    parameters too.

    Costs: ``explore`` evaluations before it becomes good, and as many more as it is given; it ends only where nothing
    new is left. Choose it with a budget of 30 evaluations and more, or where the choice of algorithms and recipe
    matters more than that of ops; ``auto`` is better at the choice of ops.

    Papers: TPE, Bergstra et al., NeurIPS 2011 (arXiv 2304.11127); constraints: Gardner et al., ICML 2014.
    """

    def __init__(self, *, model: Literal["tpe", "gp"] = "tpe", explore: int = 12) -> None:
        """Choose the model.

        Args:
            model: ``tpe``, or ``gp`` for a Gaussian process (needs torch).
            explore: How many trials to make before every second one refines the best.

        Raises:
            StrategyError: ``model`` is neither, or ``explore`` is less than 1.
            MissingDependencyError: The Gaussian process's package is not installed.
        """
        if model not in ("tpe", "gp"):
            raise StrategyError(f"`model` must be 'tpe' or 'gp', but got {model!r}")
        require_least(1, StrategyError, explore=explore)
        if model == "gp" and importlib.util.find_spec("torch") is None:
            raise MissingDependencyError(
                "Strategy 'bayesian' with model='gp' needs PyTorch, which Optuna's Gaussian process is built on: "
                "pip install torch, or take model='tpe'"
            )
        self.model = model
        self.explore = explore
        self._best = BestTrials()

    def sampler(self, problem: Problem, seed: int) -> BaseSampler:  # noqa: ARG002
        """TPE or a Gaussian process; the target reaches both as a constraint of the trials."""
        if self.model == "gp":
            gaussian = GPSampler(seed=seed, n_startup_trials=5, warn_independent_sampling=False)
            return LimitedSampler(gaussian, self._best)
        return LimitedSampler(TPESampler(seed=seed, n_startup_trials=5, n_ei_candidates=48), self._best)

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """The preferred config, then draws; every second one near the best once there is one."""
        if len(trials) == 1:
            return Proposal(config=problem.space.preferred, note="every op as preferred")
        order = fallback_order(problem)
        tried = {trial.config.fingerprint for trial in trials}
        best = _best(problem, trials)
        refines = best is not None and len(trials) > self.explore and len(trials) % 2 == 1
        drawn = None
        if not refines:
            drawn = _explore(problem.space, order, draw)
            # A point that was tried teaches nothing: step to the nearest number of fp32 ops that was not.
            new = drawn if drawn.config.fingerprint not in tried else _moved(problem, order, tried, drawn)
            if new is not None:
                return new
        refined = None if best is None else _refine(problem, best, order, tried, draw)
        # Where nothing is new, the history answers what was drawn and the study goes on to its next draw.
        return refined or drawn or _explore(problem.space, order, draw)


def _best(problem: Problem, trials: Sequence[Trial]) -> Trial | None:
    """The cheapest that keeps the target; where none does, the most accurate."""
    done = [trial for trial in trials[1:] if trial.state is TrialState.COMPLETED]
    met = [trial for trial in done if trial.met]
    if met:
        return min(met, key=lambda trial: cost_of(problem, trial))
    return min(done, key=loss_of, default=None)


def _shared_distributions(space: TuningSpace, order: Sequence[str]) -> dict[str, BaseDistribution]:
    """The parameters for the whole model; those with a single value are left out."""
    distributions: dict[str, BaseDistribution] = {}
    if order:
        distributions["fp32_ops"] = IntDistribution(0, len(order))
    for name, field in _AXES.items():
        values = dict.fromkeys(
            str(value) for op in space.ops for within in op.precisions for value in getattr(within, field)
        )
        if len(values) > 1:
            distributions[name] = CategoricalDistribution(list(values))
    for name in space.recipe.names:
        if len(choices := space.recipe[name]) > 1:
            distributions[f"recipe/{name}"] = CategoricalDistribution(choices)
    return distributions


def _explore(space: TuningSpace, order: Sequence[str], draw: Draw) -> Proposal:
    params = draw(_shared_distributions(space, order))
    return Proposal(config=_decode(space, order, params), note=_describe(params))


def _describe(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items()) or "the only config"


def _decode(space: TuningSpace, order: Sequence[str], params: Mapping[str, Any]) -> QuantizationConfig:
    """The config that shared parameters stand for."""
    ops = {op.name: _nearest(space, op.name, op.preferred, params) for op in space.ops}
    ops.update(dict.fromkeys(order[: params.get("fp32_ops", 0)], FP32))
    preferred = space.recipe.preferred
    changes = {name.removeprefix("recipe/"): value for name, value in params.items() if name.startswith("recipe/")}
    return QuantizationConfig(ops=ops, recipe=space.recipe.changed(preferred, changes))


def _nearest(space: TuningSpace, op: str, choice: OpConfig, params: Mapping[str, Any]) -> OpConfig:
    """``choice`` with the shared parameters, as near as the op offers them."""
    if choice == FP32:
        return choice
    parsers = {
        "activation": TensorScheme.parse,
        "weight": TensorScheme.parse,
        "calibration": CalibrationAlgorithm.parse,
    }
    changes: dict[str, Any] = {
        name: parse(params[name])
        for name, parse in parsers.items()
        if name in params and getattr(choice, name) is not None
    }
    return space.nearest(op, dataclasses.replace(choice, **changes))


def _refine(problem: Problem, trial: Trial, order: Sequence[str], tried: Set[str], draw: Draw) -> Proposal | None:
    """The best with one op in the other precision; None where that gives nothing new."""
    space, best = problem.space, trial.config
    if not order:
        return None
    # An integer along the order, not a category: a result of an op then says something of its neighbours too.
    position = int(draw({"refine/op": IntDistribution(0, len(order) - 1)})["refine/op"]) if len(order) > 1 else 0
    shared = _common(best)

    def toggled(op: str) -> OpConfig:
        quantized = space.by_name[op].preferred if shared is None else space.nearest(op, shared)
        return quantized if best[op] == FP32 else FP32

    # Where the best keeps the target, quantizing an op again is most likely to gain; otherwise a fallback is.
    near = sorted(order, key=lambda op: ((best[op] == FP32) is not trial.met, abs(order.index(op) - position)))
    # Single ops first; pairs, which can swap one for another, once all of these are tried.
    for ops in (*((op,) for op in near), *itertools.combinations(near[:_PAIRED], 2)):
        config = best.replace({op: toggled(op) for op in ops})
        if config.fingerprint not in tried:
            return Proposal(config=config, note=f"the best with {' and '.join(ops)} in the other precision")
    return None


def _common(config: QuantizationConfig) -> OpConfig | None:
    """The choice that most quantized ops of a config share; None where none is quantized."""
    counts = Counter(config.ops.values())
    return max(counts, key=lambda choice: counts[choice], default=None)


def _moved(problem: Problem, order: Sequence[str], tried: Set[str], drawn: Proposal) -> Proposal | None:
    """The drawn config with the nearest number of fp32 ops along the order that is new; None where none is."""
    base = drawn.config
    fallen = sum(base[op] == FP32 for op in order)
    shared = _common(base)
    if shared is None:
        return None
    for count in sorted(range(len(order) + 1), key=lambda count: abs(count - fallen)):
        choices = {op: problem.space.nearest(op, shared) for op in order[count:]}
        config = base.replace({**choices, **dict.fromkeys(order[:count], FP32)})
        if config.fingerprint not in tried:
            return Proposal(config=config, note=f"{drawn.note}; {counted(count, 'op')} in fp32 instead, which is new")
    return None
