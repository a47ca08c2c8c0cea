"""How a loss follows from an output error: in proportion to it, or to its square root.

Where answers are judged by labels, decisions that flip go both ways: about as many wrong ones turn right as right ones
turn wrong where fp32 is undecided. The remaining loss is in proportion to the energy of the noise, and energies of ops
add up. Where fp32 makes no mistake, since it is compared with its own answers, every flip is a loss. A decision flips
where fp32 is closer to undecided than the noise is large, so that flips are in proportion to the *amplitude* of the
noise. A loss of 1 % then takes a noise with a hundredth of the energy that loses 10 %, instead of a tenth.

Measured on YOLOv8n against its own boxes, with more and more of its 163 ops in fp32: output errors of 0.0305, 0.0104,
0.0055 and 0.0007 lose 8.6, 4.4, 4.3 and 1.4 %. In proportion that is 2.8 to 21 for each unit of error, by the square
root 0.43 to 0.57.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.criterion import Criterion
from autotune.strategies.auto.prediction import Vector
from autotune.trial import Trial

_PROPORTIONAL = 0.8
"""Loss for each unit of output error, before any was measured: least squares over the recorded tables give 0.62 for the
digits and 0.90 for MobileNetV2 (ResNet-20 loses nothing); near a target half the loss is a usual error."""

_ROOT = 0.5
"""Loss for each unit of an output error's square root: the median of shipped models is between 0.3 and 0.7."""

_SPREAD, _ROOT_SPREAD = 0.6, 1.5
"""Standard deviation of what these predict, as a share of it. That of the second is of the loss's square."""

_HOPELESS, _ROOT_HOPELESS = 2.0, 4.0
"""Losses predicted beyond so many times the target are not measured, before any was."""

_MODELS_DIFFER, _CONFIGS_DIFFER = 0.6, 0.4
"""Standard deviation of the logarithm of a loss over the predicted one: between models, and between configs of one."""

_SELF_COMPARED = 1.0
"""Logarithm of the odds for the square root where fp32 makes no mistake; similarities of outputs make none either, and
they are in proportion."""


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """One of the two laws.

    Everything that adds up over ops is said in ``additive`` losses: the loss itself, or its square over the target, so
    that the target is the same number in both.

    Attributes:
        target: The loss that is allowed.
        root: Whether losses are in proportion to the square root of output errors.
    """

    target: float
    root: bool = False

    @property
    def scale(self) -> float:
        """Additive loss for each unit of output error that is usual of models."""
        return _ROOT**2 / self.target if self.root else _PROPORTIONAL

    @property
    def spread(self) -> float:
        """Standard deviation of that scale between models, as a share of it."""
        return _ROOT_SPREAD if self.root else _SPREAD

    @property
    def hopeless(self) -> float:
        """Multiple of the target beyond which a predicted loss is not worth measuring."""
        return _ROOT_HOPELESS if self.root else _HOPELESS

    def additive(self, loss: float) -> float:
        """The additive loss of a measured one."""
        return loss * abs(loss) / self.target if self.root else loss

    def noise(self, loss: float, noise: float) -> float:
        """The standard deviation of :meth:`additive`, of that of the loss."""
        return 2 * max(abs(loss), noise) * noise / self.target if self.root else noise

    def losses(self, additive: Vector) -> Vector:
        """The losses that additive ones stand for."""
        return np.sign(additive) * np.sqrt(np.abs(additive) * self.target) if self.root else additive

    def predicted(self, error: float) -> float:
        """The loss of an output error, by what is usual of models."""
        return _ROOT * math.sqrt(error) if self.root else _PROPORTIONAL * error


def is_perfect(baseline: Trial, criterion: Criterion) -> bool:
    """Whether fp32 makes no mistake by the user's score: 1, or 0 where lower is better; and some loss is allowed."""
    accuracy = None if baseline.measurement is None else baseline.measurement.accuracy
    return criterion.target > 0 and accuracy == (1.0 if criterion.higher_is_better else 0.0)


def likelier(target: float, errors: Sequence[float], losses: Sequence[float]) -> LossLaw:
    """The law that explains what was measured where fp32 makes no mistake; the square root before that.

    Args:
        target: The loss that is allowed.
        errors: Output errors of configs, positive.
        losses: Losses of the same, positive.
    """
    root, proportional = LossLaw(target=target, root=True), LossLaw(target=target)
    odds = _SELF_COMPARED + _log_likelihood(root, errors, losses) - _log_likelihood(proportional, errors, losses)
    return root if odds >= 0 else proportional


def _log_likelihood(law: LossLaw, errors: Sequence[float], losses: Sequence[float]) -> float:
    """Log-likelihood of log-normal losses around the predicted ones, which share a factor of the model."""
    apart = [math.log(loss / law.predicted(error)) for error, loss in zip(errors, losses, strict=True)]
    count, total = len(apart), math.fsum(apart)
    shared, own = _MODELS_DIFFER**2, _CONFIGS_DIFFER**2
    # The covariance is own * I + shared * 11'; its inverse by the Sherman-Morrison formula, its determinant alike.
    explained = math.fsum(x * x for x in apart) - shared * total**2 / (own + count * shared)
    return -0.5 * (explained / own + math.log(1 + count * shared / own))
