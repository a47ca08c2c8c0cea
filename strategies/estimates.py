"""What ``auto`` knows of a model: what was tried, what is predicted, and which choice promises most."""

from __future__ import annotations

import math

import numpy as np

from autotune.config import FP32, QuantizationConfig
from autotune.strategies.cost_model import Costs, timing_noise
from autotune.strategies.loss_model import Losses, Template
from autotune.strategies.moves import can_fall_back, cost_of
from autotune.strategies.prediction import Vector
from autotune.strategies.program import Flags, Program
from autotune.strategy import Problem
from autotune.trial import Trial

_NOTICEABLE = 0.01
"""A predicted gain below this share is not worth an evaluation: paired latency medians hardly resolve it."""

_WORTHWHILE = 0.0025
"""Nor is one that is larger, where it times the probability that the target is kept is less than this share."""

_CAUTION = 0.5
"""How much the exponent of that probability rises with every candidate that did not win."""

_BUDGETS = (0.5, 0.75, 0.9, 1.0, 1.15, 1.4)
"""Shares of the target for which the program is solved; above 1 since losses may be overrated."""

_COMPLETE = 12
"""Up to so many ops every choice is looked at."""

_CHECKS = 3
"""Output errors are looked at until one agrees with its prediction, at most so many times."""

_FIRST_MISSES = 2
"""Misses after which the loss allowed is halved with every further one, whatever the predictions say."""


class Estimates:
    """Both predictions, what was tried, and the choice that promises most; lives as long as one replay of the plan."""

    def __init__(self, problem: Problem, baseline: Trial) -> None:
        preferred = problem.space.preferred
        self.ops = [op for op in can_fall_back(problem.space) if preferred[op] != FP32]
        self.won = False
        """Whether any candidate keeps the target and costs less than fp32."""
        self._problem = problem
        self._template = Template(config=preferred, errors={}, preferred_errors={})
        unit = cost_of(problem, baseline)
        self._unit = unit if math.isfinite(unit) else 1.0
        self._tried = {baseline.config.fingerprint}
        self._trials: list[tuple[Flags, Trial]] = []
        self._best, self._best_choice = 1.0, np.ones(len(self.ops), dtype=bool)
        self._costs = Costs(problem, self.ops, complete=len(self.ops) == len(preferred.ops))
        self._losses = Losses(problem, self._template, self.ops)

    def fastest(self) -> Flags:
        """What the profile alone says is fastest."""
        return self._costs.fastest()

    def config(self, fp32: Flags) -> QuantizationConfig:
        """The config that a choice stands for."""
        return self._template.config.replace({op: FP32 for op, flag in zip(self.ops, fp32, strict=True) if flag})

    def use(self, template: Template) -> None:
        """Go on with another template; what was measured so far was measured as preferred."""
        changed = template.config != self._template.config
        self._template = template
        self._losses = Losses(self._problem, template, self.ops)
        for choice, trial in self._trials:
            self._losses.add(choice, trial, preferred=True)
        if changed:
            # What another template kept or missed says nothing for certain of this one.
            self._trials = []

    def add(self, fp32: Flags, trial: Trial) -> bool:
        """Take in what came of a choice; whether it is the best so far."""
        self._tried.add(trial.config.fingerprint)
        self._trials.append((fp32, trial))
        cost = cost_of(self._problem, trial) / self._unit
        if math.isfinite(cost):
            self._costs.add(fp32, cost, timing_noise(trial, cost))
        self._losses.add(fp32, trial, preferred=False)
        if not (trial.met and cost < self._best):
            return False
        self.won, self._best, self._best_choice = True, cost, fp32
        return True

    def next(self, idle: int) -> Flags | None:
        """The choice to measure next; None where nothing promises enough.

        Args:
            idle: How many candidates in a row did not improve on the best. With each, the probability that the target
                is kept counts for more against the gain.
        """
        choice = None
        for _ in range(_CHECKS):
            choice = self._most_promising(idle)
            if choice is None or not self._template.errors:
                break
            config = self.config(choice)
            quick = QuantizationConfig(ops=config.ops, recipe=config.recipe.quick)
            if self._losses.add_error(choice, self._problem.insights.output_error(quick)):
                break
        return choice

    def predicted_loss(self, fp32: Flags) -> float:
        """The loss that is expected of a choice."""
        return float(self._losses.predict(fp32[None])[0][0])

    def reason(self) -> str:
        """Why there is no next choice."""
        if self.won:
            return "target met and no faster config predicted"
        return "fp32 is the fastest of the configs predicted to keep the target"

    def _most_promising(self, idle: int) -> Flags | None:
        """The untried choice with the largest gain times the probability that it keeps the target."""
        choices = self._candidates()
        if not len(choices):
            return None
        gain = self._best - self._costs.predict(choices)
        loss, probability = self._losses.predict(choices)
        probability = self._with_verdicts(choices, probability)
        probability[loss > self._limit()] = 0.0
        promise = np.where(gain >= _NOTICEABLE * self._best, gain * probability, 0.0)
        promise[promise < _WORTHWHILE * self._best] = 0.0
        promise *= probability ** (_CAUTION * idle)
        for index in np.argsort(-promise, kind="stable"):
            if promise[index] == 0:
                return None
            choice: Flags = choices[index]
            if self.config(choice).fingerprint not in self._tried:
                return choice
        return None

    def _candidates(self) -> Flags:
        """The choices to look at, (p, n)."""
        n = len(self.ops)
        if n <= _COMPLETE:
            return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
        program = Program(gain=self._costs.gain, loss=self._losses.each, conversions=self._costs.conversions)
        limit = min(self._problem.criterion.target, self._limit())
        solved = program.solve([share * limit for share in _BUDGETS])
        flipped = [self._flipped(choice) for choice in ([self._best_choice] if self.won else solved[-1:])]
        return np.concatenate([np.array(solved, dtype=bool).reshape(-1, n), *flipped])

    def _flipped(self, choice: Flags) -> Flags:
        """The choices that differ from this one in a single op and cost less, (p, n)."""
        change = np.where(choice, -self._costs.gain, self._costs.gain) + self._costs.conversions.of_flips(choice)
        ops = np.flatnonzero(change < 0)
        flipped = np.repeat(choice[None], len(ops), axis=0)
        flipped[np.arange(len(ops)), ops] ^= True
        return flipped

    def _with_verdicts(self, choices: Flags, probability: Vector) -> Vector:
        """Ops returned to fp32 do little harm: more of them than a config that keeps the target keep it as well."""
        probability = probability.copy()
        for choice, trial in self._trials:
            if trial.met:
                probability[(choices | ~choice).all(axis=1)] = np.maximum(
                    probability[(choices | ~choice).all(axis=1)], 0.9
                )
            elif trial.loss is not None:
                fewer = (choice | ~choices).all(axis=1)
                probability[fewer] = np.minimum(probability[fewer], 0.1)
        return probability

    def _limit(self) -> float:
        """The largest predicted loss of a candidate."""
        missed = [choice for choice, trial in self._trials if trial.loss is not None and not trial.met]
        if self.won or len(missed) <= _FIRST_MISSES:
            return math.inf
        lowest = min(self.predicted_loss(choice) for choice in missed)
        return 0.5 ** (len(missed) - _FIRST_MISSES) * max(lowest, self._problem.criterion.target)
