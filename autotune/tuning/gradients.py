"""Second-order sensitivity of a model that its framework differentiates, whatever runtime it is tuned for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds, Gradients
from autotune.algorithms import fake_quantize, weight_parameters
from autotune.config import CalibrationMethod, OpConfig, QuantizationConfig
from autotune.granularity import PerAxis, PerGroup
from autotune.space import TuningSpace
from autotune.tuning.hessian import HessianSensitivity


class SourceGradients:
    """Weights and probes of the user's own object; see :class:`autotune.adapter.Differentiable`.

    A model is the config that makes a candidate, or None for fp32. A weight is rounded by its scheme
    alone, so that no runtime is asked for it: recipes that move weights are left out.

    Args:
        gradients: Derivatives that the framework gives.
    """

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients

    def weights(self, model: QuantizationConfig | None) -> Mapping[str, Array]:
        """By op: its weights in fp32, or what their integers stand for."""
        weights = self._gradients.weights()
        if model is None:
            return {op: weight for op, (weight, _) in weights.items()}
        return {op: _rounded(weight, axis, model[op]) for op, (weight, axis) in weights.items()}

    def hessian_probe(self, model: QuantizationConfig | None, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        """By op with weights: ``v' H v`` for a vector of random signs, of the fp32 model."""
        assert model is None
        return self._gradients.hessian_probe(feeds, seed=seed)


def source_sensitivity(
    gradients: Gradients | None, space: TuningSpace, feeds: Sequence[Feeds], affordable: Callable[[], bool]
) -> dict[str, float]:
    """By op of the space: mean of the Hessian's diagonal times the squared error of its weights.

    Args:
        gradients: Derivatives of the user's own object.
        space: Space of the runtime; its preferred choices are what weights are rounded to.
        feeds: A few batches; probes take them in turn.
        affordable: Whether there is time for another probe.
    """
    if gradients is None:
        return {}
    estimate: HessianSensitivity[Any] = HessianSensitivity(SourceGradients(gradients), None, feeds, affordable)
    found = estimate(space.quick(space.preferred))
    return {op: found[op] for op in found if op in space.by_name}


def _rounded(weight: Array, axis: int, config: OpConfig) -> Array:
    scheme = config.weight
    if scheme is None:
        return weight
    if isinstance(scheme.granularity, PerGroup):
        # A channel's range holds those of its groups, so that this error is an upper bound, alike for all ops.
        scheme = replace(scheme, granularity=PerAxis())
    per_channel = axis if isinstance(scheme.granularity, PerAxis) else None
    parameters = weight_parameters(weight, scheme, axis, CalibrationMethod.MINMAX)
    return np.asarray(fake_quantize(weight, parameters, scheme, per_channel))
