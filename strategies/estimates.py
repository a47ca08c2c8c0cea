"""What ``auto`` knows of a model: what was measured, and the predictions of loss and cost that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from autotune.config import FP32, Precision, QuantizationConfig
from autotune.strategies.moves import can_fall_back, cost_of
from autotune.strategies.prediction import LinearModel, Vector
from autotune.strategies.program import Conversions, Flags, Program
from autotune.strategy import Objective, Problem
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
_AGREES = 0.1
"""Output errors are looked at until one agrees with its prediction within this share, at most so many times."""

_NOISE = 0.1
"""Standard deviation of a measured loss whose interval is not known, as a share of the target."""

_INEXACT = 0.1
"""Standard deviation of a loss around the sum of its ops' losses, as a share of it: losses do not quite add up."""

_TIMING = 0.01
"""Standard deviation of a measured cost."""

_DOUBT = 0.15
_RESOLUTION_S = 2e-6
"""An op counts as faster in fp32 only where its profile says so by more than this share and these seconds: profiles of
two models are told apart no better, and count whole microseconds."""

_FIRST_MISSES = 2
"""Misses after which the loss allowed is halved with every further one, whatever the predictions say."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A config that others are made from by returning ops to fp32.

    Attributes:
        config: The choice of each op in int8.
        errors: By op, the output error with this op alone in int8; empty where it was not needed.
        preferred_errors: The same with the op's preferred choice.
    """

    config: QuantizationConfig
    errors: Mapping[str, float]
    preferred_errors: Mapping[str, float]


class Costs:
    """Predicts costs, as shares of the baseline's, from the profile and from what was measured.

    A choice is one flag per op of ``ops``, true for fp32.

    Args:
        problem: Whose profile it is.
        ops: Those that can be in fp32.
        complete: Whether there is no other quantized op, so that all of them in fp32 are the baseline.
    """

    def __init__(self, problem: Problem, ops: Sequence[str], *, complete: bool) -> None:
        n = len(ops)
        self._observed: list[tuple[Flags, float]] = [(np.ones(n, dtype=bool), 1.0)] if complete else []
        latency = problem.insights.op_latency() if problem.objective is Objective.LATENCY else {}
        known = [set(latency.get(op, ())) >= {Precision.FP32, Precision.INT8} for op in ops]
        # A profile that misses most ops would have their return to fp32 cost nothing.
        self.profiled = n > 0 and 2 * sum(known) >= n
        self._gain, self._doubt = np.zeros(n), np.zeros(n)
        crossing: Mapping[str, float] = {}
        if self.profiled:
            unit = sum(seconds.get(Precision.FP32, 0.0) for seconds in latency.values())
            seconds = np.array(
                [
                    [latency[op][Precision.FP32], latency[op][Precision.INT8]] if have else [0.0, 0.0]
                    for op, have in zip(ops, known, strict=True)
                ]
            )
            self._gain = (seconds[:, 0] - seconds[:, 1]) / unit
            self._doubt = (_DOUBT * seconds.min(axis=1) + _RESOLUTION_S) / unit
            crossing = {op: value / unit for op, value in problem.insights.crossing_latency().items()}
        position = {op: i for i, op in enumerate(ops)}
        readers = {
            position[op]: [position[reader] for reader in others if reader in position]
            for op, others in (problem.insights.neighbours() if crossing else {}).items()
            if op in position
        }
        self._crossing = {position[op]: value for op, value in crossing.items() if op in position}
        self._readers = readers
        self.conversions = Conversions(n, self._crossing, readers)
        self._full = 1.0
        self._model: LinearModel | None = None

    def fastest(self) -> Flags:
        """The ops that the profile says are faster in fp32, by more than its noise and what conversions cost."""
        n = len(self._gain)
        if not self.profiled:
            return np.zeros(n, dtype=bool)
        program = Program(gain=self._gain + self._doubt, loss=np.zeros(n), conversions=self.conversions)
        return program.solve([0.0])[0]

    def add(self, choice: Flags, cost: float) -> None:
        """Take in a measured cost. The first one says what the profile's seconds are worth."""
        if self._model is None:
            self._calibrate(choice, cost)
        self._observed.append((choice, cost))
        self._fit()

    def _calibrate(self, choice: Flags, cost: float) -> None:
        int8 = ~choice
        if not self.profiled:
            self._gain = np.full(len(choice), (1.0 - cost) / max(int(int8.sum()), 1))
        measured = 1.0 - cost
        profiled = float(self._gain @ int8) - float(self.conversions.cost(choice[None])[0])
        scale = float(np.clip(measured / profiled, 0.5, 2.0)) if measured * profiled > 0 else 1.0
        self._gain = self._gain * scale
        crossing = {op: value * scale for op, value in self._crossing.items()}
        self.conversions = Conversions(len(choice), crossing, self._readers)
        self._full = cost - float(self._gain @ choice) - float(self.conversions.cost(choice[None])[0])

    def _fit(self) -> None:
        gain, size = self._gain, np.abs(self._gain)
        choices = np.array([choice for choice, _ in self._observed])
        observed = np.array([cost for _, cost in self._observed])
        std = 0.3 * size + 0.1 * float(size.mean() if len(size) else 0.0) + 1e-6
        self._model = LinearModel(
            mean=np.append(gain, self._full),
            std=np.append(std, 0.02),
            features=_with_constant(choices),
            observed=observed - self.conversions.cost(choices),
            noise=np.full(len(observed), _TIMING),
        )

    @property
    def gain(self) -> Vector:
        """What each op adds to the cost in fp32, by what is known now."""
        return self._gain if self._model is None else self._model.mean[:-1]

    def predict(self, choices: Flags) -> Vector:
        """Of each choice; (p, n) to (p,)."""
        if self._model is None:
            # Nothing could be timed yet: the profile's word, or else as if int8 took half the time.
            gain = self._gain if self.profiled else np.full(len(self._gain), 0.5 / max(len(self._gain), 1))
            return 1.0 - ~choices @ gain + self.conversions.cost(choices)
        return _with_constant(choices) @ self._model.mean + self.conversions.cost(choices)


class Losses:
    """Predicts losses from output errors and from what was measured; choices as in :class:`Costs`.

    Args:
        problem: Whose target it is.
        template: Whose ops' errors add up.
        ops: Those that can be in fp32.
    """

    def __init__(self, problem: Problem, template: Template, ops: Sequence[str]) -> None:
        self._problem = problem
        self._target = problem.criterion.target
        self._prior = _positive([template.errors.get(op, 1.0) for op in ops])
        preferred = _positive([template.preferred_errors.get(op, 1.0) for op in ops])
        self._ratio = preferred / self._prior
        """By op, its error as preferred over that in the template."""
        self._observed: list[tuple[Vector, float, float]] = []
        self._errors: dict[bytes, tuple[Flags, float]] = {}
        self._models()

    def add(self, choice: Flags, trial: Trial, *, preferred: bool) -> None:
        """Take in a measured loss; ``preferred``: of a config whose int8 ops are as preferred."""
        if trial.loss is None or trial.measurement is None:
            return
        interval = trial.measurement.loss_interval
        noise = _NOISE * self._target if interval is None else (interval.high - interval.low) / 4
        weight = self._ratio if preferred else np.ones(len(choice))
        self._observed.append((np.where(choice, 0.0, weight), trial.loss, noise))
        self._models()

    def add_error(self, choice: Flags, error: float) -> bool:
        """Take in the output error of a choice; whether it is what was predicted."""
        if not math.isfinite(error):
            return True
        predicted = float(self._error_model.mean @ ~choice)
        self._errors[choice.tobytes()] = (choice, error)
        self._models()
        return abs(error - predicted) <= _AGREES * predicted

    def _models(self) -> None:
        observed = np.array([error for _, error in self._errors.values()])
        choices = np.array([~choice for choice, _ in self._errors.values()], dtype=float)
        self._error_model = LinearModel(
            mean=self._prior,
            std=0.5 * self._prior,
            features=choices.reshape(len(observed), len(self._prior)),
            observed=observed,
            noise=0.02 * observed + 1e-12,
        )
        errors = np.maximum(self._error_model.mean, 0.01 * self._prior)
        self._model = self._loss_model(errors)

    def _loss_model(self, errors: Vector) -> LinearModel:
        """What each op loses in int8: its output error times a scale for all, then corrected for each op."""
        features = np.array([row for row, _, _ in self._observed]).reshape(len(self._observed), len(errors))
        losses = np.array([loss for _, loss, _ in self._observed])
        # Losses do not add up far away from the target, so that what was seen there counts less.
        noise = np.array([math.hypot(noise, 0.3 * (loss - self._target)) for _, loss, noise in self._observed])
        noise = np.maximum(noise, 1e-9)
        total = features @ errors / noise
        scale = float(total @ (losses / noise)) / float(total @ total) if total.any() else 0.0
        floor = 0.05 * self._target / float(errors.sum()) if len(errors) else 0.0
        if not len(losses):
            # Nothing could be measured yet: as if plain int8 lost four times what is allowed.
            scale = 80 * floor
        mean = max(scale, floor) * errors
        return LinearModel(mean=mean, std=0.5 * mean, features=features, observed=losses, noise=noise)

    @property
    def each(self) -> Vector:
        """What each op loses in int8, by what is known now."""
        return np.maximum(self._model.mean, 0.0)

    def predict(self, choices: Flags) -> tuple[Vector, Vector]:
        """Mean of each choice's loss and the probability that it keeps the target; (p, n) to (p,)."""
        mean, std = self._model.predict((~choices).astype(float))
        std = np.sqrt(std**2 + (_INEXACT * mean) ** 2 + (_NOISE * self._target) ** 2)
        return mean, ndtr((self._target - mean) / np.maximum(std, 1e-12))


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
            self._costs.add(fp32, cost)
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


def _with_constant(choices: Flags) -> Vector:
    """A column of ones after the choices: what a config costs without any op in fp32."""
    return np.hstack([choices.astype(float), np.ones((len(choices), 1))])


def _positive(errors: Sequence[float]) -> Vector:
    """The errors of the ops, positive and finite: an op that fails alone counts as all others together."""
    values = np.maximum(np.array(errors, dtype=float), 0.0)
    total = float(values[np.isfinite(values)].sum()) or 1.0
    # No op is taken to be harmless for certain.
    return np.maximum(np.where(np.isfinite(values), values, total), 1e-3 * total / max(len(values), 1))
