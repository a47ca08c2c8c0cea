"""Losses as ``auto`` predicts them: output errors of single ops add up, corrected by what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.config import QuantizationConfig
from autotune.strategies.auto.loss_law import LossLaw, likelier
from autotune.strategies.auto.prediction import LinearModel, Vector
from autotune.strategies.auto.program import Flags
from autotune.strategies.auto.steps import Step, errors_of
from autotune.strategy import Problem
from autotune.trial import Trial

_AGREES = 0.1
"""An output error agrees with its prediction within this share."""

_SHARED = 1.0
_OVERLOOKED = 0.2
"""Standard deviation of an op's output error, as a share of what it is taken to be, and of what ops cause on average:
most were measured in groups, and what a choice as a whole causes has to find its place among them."""

_NOISE = 0.1
"""Standard deviation of a measured loss whose interval is not known, as a share of the target."""

_INEXACT = 0.1
"""Standard deviation of a loss around the sum of its ops' losses, as a share of it: losses do not quite add up."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A config, and the steps from it towards fp32 that others are made with.

    Attributes:
        config: The choice of each op where no step is taken.
        steps: All that may be taken.
        measured: Whether the steps' errors are known; where the first config keeps the target they are not needed.
    """

    config: QuantizationConfig
    steps: Sequence[Step]
    measured: bool


def is_telling(problem: Problem, config: QuantizationConfig) -> bool:
    """Whether a config's output error says anything of its loss before a loss was measured.

    An absolute loss is in a unit of the user's. And output errors are those of quick recipes: on MobileNetV2 they are
    1.7 to 2.5 % where the config itself, its biases corrected in full, loses 0.8 to 1.0 %.
    """
    return problem.criterion.relative is not None and config.recipe == problem.space.recipe.quick(config.recipe)


class Losses:
    """Predicts losses from output errors and from what was measured; choices as in :class:`Costs`.

    Args:
        problem: The problem whose target is to be kept.
        template: The template whose steps' errors add up.
        perfect: Whether fp32 makes no mistake, see :mod:`autotune.strategies.auto.loss_law`.
    """

    def __init__(self, problem: Problem, template: Template, *, perfect: bool = False) -> None:
        self._problem = problem
        self._target = problem.criterion.target
        self._perfect = perfect and self._target > 0
        self._measured = template.measured and is_telling(problem, template.config)
        errors, opening = errors_of(template.steps)
        ones = np.ones(len(template.steps))
        self._prior = _positive(errors if template.measured else ones)
        self._ratio = _positive(opening if template.measured else ones) / self._prior
        """By step, its error from the first config over that from the template."""
        self._observed: list[tuple[Vector, float, float]] = []
        self._errors: dict[bytes, tuple[Flags, float]] = {}
        self._models()

    def add(self, choice: Flags, trial: Trial, *, preferred: bool) -> None:
        """Take in a measured loss; ``preferred``: of a config whose ops start from those of the first config."""
        if trial.loss is None or trial.measurement is None:
            return
        noise = self._noise(trial)
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

    def kept_again(self, trial: Trial) -> float:
        """The probability that a config that loses what this one truly does is measured to keep the target."""
        assert trial.loss is not None
        from scipy.special import ndtr  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait

        return float(ndtr((self._target - trial.loss) / (math.sqrt(2) * self._noise(trial))))

    def _noise(self, trial: Trial) -> float:
        """Standard deviation of a measured loss."""
        interval = None if trial.measurement is None else trial.measurement.loss_interval
        return max(_NOISE * self._target if interval is None else (interval.high - interval.low) / 4, 1e-9)

    def _models(self) -> None:
        observed = np.array([error for _, error in self._errors.values()])
        choices = np.array([~choice for choice, _ in self._errors.values()], dtype=float)
        self._error_model = LinearModel(
            mean=self._prior,
            std=_SHARED * self._prior + _OVERLOOKED * float(self._prior.mean()) if len(self._prior) else self._prior,
            features=choices.reshape(len(observed), len(self._prior)),
            observed=observed,
            noise=0.02 * observed + 1e-12,
        )
        errors = np.maximum(self._error_model.mean, 0.01 * self._prior)
        self.law = self._law(errors)
        self._model = self._loss_model(errors)

    def _law(self, errors: Vector) -> LossLaw:
        """How losses follow from these errors, by what is known so far."""
        if not (self._perfect and self._measured):
            return LossLaw(target=self._target)
        clear = [(float(row @ errors), loss) for row, loss, noise in self._observed if loss > 2 * noise and row.any()]
        return likelier(self._target, [error for error, _ in clear], [loss for _, loss in clear])

    def _loss_model(self, errors: Vector) -> LinearModel:
        """Loss that each step removes: its output error times a scale for all, then corrected for each step."""
        features = np.array([row for row, _, _ in self._observed]).reshape(len(self._observed), len(errors))
        law = self.law
        losses = np.array([law.additive(loss) for _, loss, _ in self._observed])
        # Losses do not add up far away from the target, so that what was seen there counts less.
        noise = np.array([law.noise(loss, noise) for _, loss, noise in self._observed])
        noise = np.maximum(np.hypot(noise, 0.3 * (losses - self._target)), 1e-9)
        total = features @ errors / noise
        # The usual scale of models counts as an observation, as long as the errors are known.
        usual = law.spread**-2 if self._measured else 0.0
        seen = float(total @ total) * law.scale**2
        scale = law.scale * (usual + float(total @ (losses / noise)) * law.scale) / (usual + seen or 1.0)
        floor = 0.05 * self._target / float(errors.sum()) if len(errors) else 0.0
        if not len(losses) and not self._measured:
            # As if plain int8 lost four times what is allowed.
            scale = 80 * floor
        mean = max(scale, floor) * errors
        return LinearModel(mean=mean, std=0.5 * mean, features=features, observed=losses, noise=noise)

    @property
    def prior(self) -> Vector:
        """Output error that each step removes, whatever was measured of losses."""
        return self._prior

    @property
    def each(self) -> Vector:
        """Additive loss that each step removes, by what is known now."""
        return np.maximum(self._model.mean, 0.0)

    def predict(self, choices: Flags) -> tuple[Vector, Vector]:
        """Mean of each choice's loss and the probability that it keeps the target; (p, n) to (p,)."""
        mean, std = self._model.predict((~choices).astype(float))
        # The measured loss will decide, so that its noise counts as well.
        noise = float(np.median([noise for _, _, noise in self._observed] or [_NOISE * self._target]))
        inexact = _INEXACT if self._observed else self.law.spread
        std = np.sqrt(std**2 + (inexact * mean) ** 2 + self.law.noise(self._target, noise) ** 2)
        from scipy.special import ndtr  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait

        return self.law.losses(mean), ndtr((self._target - mean) / np.maximum(std, 1e-12))


def _positive(errors: Vector) -> Vector:
    """The errors of the steps, positive and finite: an op that fails alone counts as all others together."""
    values = np.maximum(errors, 0.0)
    total = float(values[np.isfinite(values)].sum()) or 1.0
    # No op is taken to be harmless for certain.
    return np.maximum(np.where(np.isfinite(values), values, total), 1e-3 * total / max(len(values), 1))
