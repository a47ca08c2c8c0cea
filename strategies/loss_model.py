"""What ``auto`` predicts of losses: output errors of single ops add up, corrected by what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from autotune.config import QuantizationConfig
from autotune.strategies.prediction import LinearModel, Vector
from autotune.strategies.program import Flags
from autotune.strategy import Problem
from autotune.trial import Trial

_AGREES = 0.1
"""An output error agrees with its prediction within this share."""

_NOISE = 0.1
"""Standard deviation of a measured loss whose interval is not known, as a share of the target."""

_INEXACT = 0.1
"""Standard deviation of a loss around the sum of its ops' losses, as a share of it: losses do not quite add up."""


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
        # What will be measured decides, so that its noise counts as well.
        noise = float(np.median([noise for _, _, noise in self._observed] or [_NOISE * self._target]))
        std = np.sqrt(std**2 + (_INEXACT * mean) ** 2 + noise**2)
        return mean, ndtr((self._target - mean) / np.maximum(std, 1e-12))


def _positive(errors: Sequence[float]) -> Vector:
    """The errors of the ops, positive and finite: an op that fails alone counts as all others together."""
    values = np.maximum(np.array(errors, dtype=float), 0.0)
    total = float(values[np.isfinite(values)].sum()) or 1.0
    # No op is taken to be harmless for certain.
    return np.maximum(np.where(np.isfinite(values), values, total), 1e-3 * total / max(len(values), 1))
