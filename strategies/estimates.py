"""What ``auto`` knows of a model: what was measured, and the predictions of loss and cost that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.config import FP32, Precision, QuantizationConfig
from autotune.strategies.moves import cost_of
from autotune.strategies.prediction import LinearModel, Program, Vector
from autotune.strategy import Objective, Problem
from autotune.trial import Trial

Flags: TypeAlias = npt.NDArray[np.bool_]

_NOTICEABLE = 0.01
"""A predicted gain below this share is not worth an evaluation: paired latency medians hardly resolve it."""

_GIVE_BACK = (1.0, 1.1, 1.25, 1.5)
"""Shares of the target that the predicted loss may reach. Above 1, ops return to int8 whose loss may be overrated."""

_CHECKS = 4
_AGREES = 0.1
"""Output errors are looked at until one agrees with its prediction within this share, at most so many times."""

_NOISE = 0.1
"""Standard deviation of a measured loss whose interval is not known, as a share of the target."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A config that others are made from by returning ops to fp32.

    Attributes:
        config: The choice of each op in int8.
        errors: By op that can return, the most sensitive first: the output error with this op alone in int8.
        note: How it was chosen.
    """

    config: QuantizationConfig
    errors: Mapping[str, float]
    note: str


class Estimates:
    """The predictions and what was observed, for one template; lives as long as one replay of the plan.

    A choice is one flag per op of ``ops``, true for fp32. Costs are shares of the baseline's.
    """

    def __init__(self, problem: Problem, template: Template, baseline: Trial, first: Trial) -> None:
        self.ops = list(template.errors)
        self.won = False
        """Whether any candidate keeps the target and costs less than fp32."""
        self._best = 1.0
        self._best_choice = np.zeros(len(self.ops), dtype=bool)
        self._errors: dict[bytes, tuple[Flags, float]] = {}
        self._problem = problem
        self._template = template.config
        unit = cost_of(problem, baseline)
        self._unit = unit if math.isfinite(unit) else 1.0
        self._tried: list[Flags] = []
        self._losses: list[tuple[Flags, float, float]] = []
        self._costs: list[tuple[Flags, float]] = []
        nothing = np.zeros(len(self.ops), dtype=bool)
        self.add(nothing, first)
        self._full_cost = self._costs[0][1] if self._costs else 1.0
        if len(self.ops) == len(template.config.ops):
            self._costs.append((~nothing, 1.0))
            self._tried.append(~nothing)
        self._sensitivity = _positive(template)
        self._gain, self._crossing = self._profile()
        position = {op: i for i, op in enumerate(self.ops)}
        self._readers = {
            position[op]: [position[reader] for reader in readers if reader in position]
            for op, readers in problem.insights.neighbours().items()
            if op in position
        }

    def config(self, fp32: Flags) -> QuantizationConfig:
        """The config that a choice stands for."""
        return self._template.replace({op: FP32 for op, flag in zip(self.ops, fp32, strict=True) if flag})

    def add(self, fp32: Flags, trial: Trial) -> bool:
        """Take in what came of a choice; whether it is the best so far."""
        self._tried.append(fp32)
        cost = cost_of(self._problem, trial) / self._unit
        if math.isfinite(cost):
            self._costs.append((fp32, cost))
        if trial.loss is not None and trial.measurement is not None:
            interval = trial.measurement.loss_interval
            noise = _NOISE * self._problem.criterion.target if interval is None else (interval.high - interval.low) / 4
            self._losses.append((fp32, trial.loss, noise))
        if not (trial.met and cost < self._best):
            return False
        self.won, self._best, self._best_choice = True, cost, fp32
        return True

    def next(self) -> Flags | None:
        """The choice to measure next; None where nothing is predicted to win."""
        return next((choice for budget in self._budgets() if (choice := self._checked(budget)) is not None), None)

    def _budgets(self) -> list[float]:
        """Sums of predicted losses to try, the first that gives a choice counts.

        The predictions need to be right in their order only: what they are for configs that were measured brackets
        the budget, and where the target lies outside of the bracket, the bracket is halved.
        """
        target = self._problem.criterion.target
        missed = [self.predicted_loss(fp32) for fp32, loss, _ in self._losses if loss > target]
        if not self.won:
            return [min([target, *(0.5 * loss for loss in missed)])]
        low = self.predicted_loss(self._best_choice)
        high = min((loss for loss in missed if loss > low), default=math.inf)
        if high > 0.97 * target:
            return [target * share for share in _GIVE_BACK]
        return [math.sqrt(max(low, 0.01 * high) * high), high, *(target * share for share in _GIVE_BACK)]

    def _checked(self, budget: float) -> Flags | None:
        """What the program picks, once the output error of its picks was looked at and agrees with the prediction."""
        fp32 = None
        for _ in range(_CHECKS):
            fp32 = self._solve(budget)
            if fp32 is None:
                return None
            predicted = float(self._predicted_errors() @ ~fp32)
            error = self._problem.insights.output_error(self.config(fp32))
            if math.isfinite(error):
                self._errors[fp32.tobytes()] = (fp32, error)
            if abs(error - predicted) <= _AGREES * predicted:
                break
        return fp32

    def _solve(self, budget: float) -> Flags | None:
        """The choice predicted to cost least within a budget of loss; None where none would win."""
        gain, crossing, loss = self._predicted_gain(), self._crossing, self._predicted_losses()
        program = Program(
            gain=gain,
            loss=loss,
            budget=budget,
            crossing=dict(enumerate(crossing)),
            readers=self._readers,
            tried=_rows(self._tried, len(self.ops)).astype(bool),
        )
        fp32 = program.solve()
        if fp32 is None:
            return None
        cost = self._full_cost + float(gain @ fp32) + program.crossing_cost(fp32)
        return fp32 if cost < self._best * (1 - _NOTICEABLE) else None

    def predicted_loss(self, fp32: Flags) -> float:
        """The loss that is expected of a choice."""
        return float(self._predicted_losses() @ ~fp32)

    def reason(self) -> str:
        """Why there is no next choice."""
        if self.won:
            return "target met and no faster config predicted"
        return "fp32 is the fastest of the configs predicted to keep the target"

    def _predicted_errors(self) -> Vector:
        """What each op adds to the output error in int8: its own, corrected by the errors of whole configs."""
        observed = np.array([error for _, error in self._errors.values()])
        features = _rows([~fp32 for fp32, _ in self._errors.values()], len(self.ops))
        mean = self._sensitivity
        model = LinearModel(
            mean=mean, std=0.5 * mean, features=features, observed=observed, noise=0.02 * observed + 1e-12
        )
        return np.maximum(model.mean, 0.01 * mean)

    def _predicted_losses(self) -> Vector:
        """What each op loses in int8: its output error times a scale for all, then corrected for each op."""
        errors, target = self._predicted_errors(), self._problem.criterion.target
        features = _rows([~fp32 for fp32, _, _ in self._losses], len(self.ops))
        observed = np.array([loss for _, loss, _ in self._losses])
        # Losses do not add up far away from the target, so that what was seen there counts less.
        noise = np.array([math.hypot(noise, 0.3 * (loss - target)) for _, loss, noise in self._losses])
        noise = np.maximum(noise, 1e-9)
        total = features @ errors / noise
        scale = float(total @ (observed / noise)) / float(total @ total) if total.any() else 0.0
        floor = 0.05 * target / float(errors.sum()) if len(self.ops) else 0.0
        if not len(observed):
            # Nothing could be measured yet: as if plain int8 lost four times what is allowed.
            scale = 80 * floor
        mean = max(scale, floor) * errors
        model = LinearModel(mean=mean, std=0.5 * mean, features=features, observed=observed, noise=noise)
        return np.maximum(model.mean, 0.0)

    def _profile(self) -> tuple[Vector, Vector]:
        """By op, what it adds to the cost in fp32, and what a conversion after it costs, as the profile has it."""
        n = len(self.ops)
        even = np.full(n, (1.0 - self._full_cost) / max(n, 1))
        latency = self._problem.insights.op_latency() if self._problem.objective is Objective.LATENCY else {}
        quantized = {op: self._template[op].precision for op in self.ops}
        known = [set(latency.get(op, ())) >= {Precision.FP32, quantized[op]} for op in self.ops]
        if 2 * sum(known) < n:
            # A profile that misses most ops would have their return to fp32 cost nothing.
            return even, np.zeros(n)
        total_s = sum(seconds.get(Precision.FP32, 0.0) for seconds in latency.values())
        gain = np.array(
            [
                (latency[op][Precision.FP32] - latency[op][quantized[op]]) / total_s if have else 0.0
                for op, have in zip(self.ops, known, strict=True)
            ]
        )
        # The profile's total must give the cost that was measured, within reason.
        measured, profiled = 1.0 - self._full_cost, float(gain.sum())
        scale = float(np.clip(measured / profiled, 0.5, 2.0)) if measured * profiled > 0 else 1.0
        crossing = self._problem.insights.crossing_latency()
        return gain * scale, np.array([crossing.get(op, 0.0) / total_s * scale for op in self.ops])

    def _predicted_gain(self) -> Vector:
        """What each op adds to the cost in fp32: the profile, corrected by what was measured."""
        gain = self._gain
        features = _rows([fp32 for fp32, _ in self._costs], len(self.ops))
        program = self._conversions()
        observed = np.array([cost - self._full_cost - program.crossing_cost(fp32) for fp32, cost in self._costs])
        std = 0.3 * np.abs(gain) + 0.1 * float(np.abs(gain).mean() if len(gain) else 0.0) + 1e-6
        noise = np.full(len(observed), 0.01)
        return LinearModel(mean=gain, std=std, features=features, observed=observed, noise=noise).mean

    def _conversions(self) -> Program:
        none = np.zeros(0)
        crossing = dict(enumerate(self._crossing))
        return Program(
            gain=none, loss=none, budget=0.0, crossing=crossing, readers=self._readers, tried=np.zeros((0, 0), bool)
        )


def _rows(choices: Sequence[Flags], ops: int) -> Vector:
    """Choices as the rows of a matrix, (choices, ops), also where there are none."""
    return np.array(choices, dtype=float).reshape(len(choices), ops)


def _positive(template: Template) -> Vector:
    """The errors of the ops, positive and finite: an op that fails alone counts as all others together."""
    values = np.array([max(error, 0.0) for error in template.errors.values()])
    total = float(values[np.isfinite(values)].sum()) or 1.0
    # No op is taken to be harmless for certain.
    return np.maximum(np.where(np.isfinite(values), values, total), 1e-3 * total / max(len(values), 1))
