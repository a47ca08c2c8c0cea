"""The default: predict loss and latency of every config from little, then measure only what is predicted to win."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.config import FP32, Precision, QuantizationConfig
from autotune.errors import StrategyError
from autotune.strategies.moves import cost_of, fallback_order, uniform_configs
from autotune.strategies.prediction import LinearModel, Program, Vector
from autotune.strategies.replay import Plan, PlannedStrategy
from autotune.strategy import Objective, Problem, Proposal
from autotune.trial import Trial

_NOTICEABLE = 0.01
"""A predicted gain below this share is not worth an evaluation: paired latency medians hardly resolve it."""


_GIVE_BACK = (1.0, 1.1, 1.25, 1.5)
"""Shares of the target that the predicted loss may reach. Above 1, ops return to int8 whose loss may be overrated."""

_MOST_MISSES = 8
"""After as many halvings the loss allowed for is 1/256 of the target."""

Flags: TypeAlias = npt.NDArray[np.bool_]


class Auto(PlannedStrategy):
    """Solves for the fastest config whose predicted loss keeps the target, measures it, corrects itself, repeats.

    1. Calibration algorithm, weight scheme and recipe: those whose uniform config has the least output error on a few
       samples. No evaluation is spent on it.
    2. That uniform config is evaluated. It scales both predictions: the loss of a config as the sum of its int8 ops'
       sensitivities, its cost as the sum of the profiled times of its ops and of the conversions between them.
    3. An integer program picks the ops that go to fp32: least cost, loss within the target. An op that is faster in
       fp32 goes there even when the target is met. The candidate is evaluated and both predictions are corrected by
       Bayesian regression, for single ops and not only in scale.
    4. As long as nothing keeps the target, each miss halves the loss that is allowed for, which is a bisection along
       the sensitivities where the prediction is of no use. Once something does, further candidates assume less loss
       than predicted, so that ops return to int8 (are given back) where their loss was overrated.
    5. It ends when no config is predicted to be faster, or after ``patience`` candidates in a row that did not win.

    Costs: one evaluation where plain quantization keeps the target and is fastest, typically 4 to 10 otherwise, however
    many ops there are; the sensitivities cost a pass of a few samples for each op. Choose it always, unless the point
    is to compare with something else.

    Builds on: noise-to-signal ratios that add up and integer programs over them (HAWQ-V3, arXiv 2011.10680; NVIDIA
    ModelOpt's auto_quantize), bisection along a sensitivity order (arXiv 2302.01382), give-back (``mse_v2``).
    """

    def __init__(self, *, patience: int = 4, templates: int = 8) -> None:
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
        """Uniform config, then what the program picks until nothing better is predicted."""
        baseline = yield Proposal(config=QuantizationConfig(), note="fp32 baseline")
        template, note = _best_template(problem, self.templates)
        first = yield Proposal(config=template, note=note, needs_accuracy=True)
        search = Search(problem, template, baseline, first)
        idle = misses = 0
        while True:
            # A bisection until something wins; from then on what is predicted to win, at last with losses overrated.
            levels = _GIVE_BACK if search.won else (0.5**misses,)
            fp32 = next((choice for allowed in levels if (choice := search.next(allowed)) is not None), None)
            if fp32 is None:
                return search.reason()
            note = f"{int(fp32.sum())} of {len(fp32)} ops in fp32, predicted loss {search.predicted_loss(fp32):.2%}"
            trial = yield Proposal(config=search.config(fp32), note=note)
            if search.add(fp32, trial):
                idle = 0
            elif search.won:
                idle += 1
            else:
                misses += 1
            if idle >= self.patience:
                return f"target met, and the last {idle} candidates predicted to be faster did not win"
            if misses >= _MOST_MISSES:
                return f"target missed by {misses} candidates, with ever less int8"


def _best_template(problem: Problem, templates: int) -> tuple[QuantizationConfig, str]:
    """The uniform config with the least output error, among those that compute as the preferred one does."""
    preferred = problem.space.preferred
    alike = [
        (config, note)
        for config, note in itertools.islice(uniform_configs(problem.space), templates)
        if all(config[op].activation == preferred[op].activation for op in preferred.ops)
    ]
    if len(alike) < 2:
        return alike[0]
    errors = [problem.insights.output_error(config) for config, _ in alike]
    config, note = alike[int(np.argmin(errors))]
    return config, f"{note}: the least output error of {len(alike)} like it"


class Search:
    """The predictions and what was observed, for one template; lives as long as one replay of the plan.

    A choice is one flag per op of ``ops``, true for fp32. Costs are shares of the baseline's.
    """

    def __init__(self, problem: Problem, template: QuantizationConfig, baseline: Trial, first: Trial) -> None:
        self.ops = [op for op in fallback_order(problem) if template[op] != FP32]
        self.won = False
        """Whether any candidate keeps the target and costs less than fp32."""
        self._best = 1.0
        self._problem = problem
        self._template = template
        unit = cost_of(problem, baseline)
        self._unit = unit if math.isfinite(unit) else 1.0
        self._tried: list[Flags] = []
        self._losses: list[tuple[Flags, float, float]] = []
        self._costs: list[tuple[Flags, float]] = []
        nothing = np.zeros(len(self.ops), dtype=bool)
        self.add(nothing, first)
        self._full_cost = self._costs[0][1] if self._costs else 1.0
        if len(self.ops) == len(template.ops):
            self._costs.append((~nothing, 1.0))
            self._tried.append(~nothing)
        self._sensitivity = _sensitivity(problem, self.ops)
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
            noise = 0.1 * self._problem.criterion.target if interval is None else (interval.high - interval.low) / 4
            self._losses.append((fp32, trial.loss, noise))
        if not (trial.met and cost < self._best):
            return False
        self.won, self._best = True, cost
        return True

    def next(self, allowed: float) -> Flags | None:
        """The choice predicted to cost least with a loss of ``allowed`` times the target; None where none would win."""
        gain, crossing, loss = self._predicted_gain(), self._crossing, self._predicted_losses()
        program = Program(
            gain=gain,
            loss=loss,
            budget=self._problem.criterion.target * allowed,
            crossing=dict(enumerate(crossing)),
            readers=self._readers,
            tried=np.array(self._tried, dtype=bool).reshape(len(self._tried), len(self.ops)),
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

    def _predicted_losses(self) -> Vector:
        """What each op loses in int8: sensitivity times a scale for all, then corrected for each op."""
        sensitivity, target = self._sensitivity, self._problem.criterion.target
        features = np.array([~fp32 for fp32, _, _ in self._losses], dtype=float).reshape(
            len(self._losses), len(self.ops)
        )
        observed = np.array([loss for _, loss, _ in self._losses])
        # Losses do not add up far away from the target, so that what was seen there counts less.
        noise = np.array([math.hypot(noise, 0.3 * (loss - target)) for _, loss, noise in self._losses])
        noise = np.maximum(noise, 1e-9)
        total = features @ sensitivity / noise
        scale = float(total @ (observed / noise)) / float(total @ total) if total.any() else 0.0
        floor = 0.05 * target / float(sensitivity.sum()) if len(self.ops) else 0.0
        if not len(observed):
            # Nothing could be measured yet: as if plain int8 lost four times what is allowed.
            scale = 80 * floor
        mean = max(scale, floor) * sensitivity
        model = LinearModel(mean=mean, std=0.5 * mean, features=features, observed=observed, noise=noise)
        return np.maximum(model.mean, 0.0)

    def _profile(self) -> tuple[Vector, Vector]:
        """By op, what it adds to the cost in fp32, and what a conversion after it costs, as the profile has it."""
        n = len(self.ops)
        even = np.full(n, (1.0 - self._full_cost) / max(n, 1))
        latency = self._problem.insights.op_latency() if self._problem.objective is Objective.LATENCY else {}
        known = [set(latency.get(op, ())) >= {Precision.FP32, Precision.INT8} for op in self.ops]
        if not any(known):
            return even, np.zeros(n)
        total_s = sum(seconds.get(Precision.FP32, 0.0) for seconds in latency.values())
        gain = np.array(
            [
                (latency[op][Precision.FP32] - latency[op][Precision.INT8]) / total_s if have else 0.0
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
        features = np.array([fp32 for fp32, _ in self._costs], dtype=float).reshape(len(self._costs), len(self.ops))
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


def _sensitivity(problem: Problem, ops: Sequence[str]) -> Vector:
    """What the ops disturb, positive and finite: an op that fails alone counts as all others together."""
    given = problem.insights.sensitivity()
    values = np.array([max(given.get(op, 0.0), 0.0) for op in ops])
    finite = values[np.isfinite(values)]
    total = float(finite.sum()) or 1.0
    # No op is taken to be harmless for certain.
    return np.maximum(np.where(np.isfinite(values), values, total), 1e-3 * total / max(len(ops), 1))
