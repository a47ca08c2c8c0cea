"""Second-order sensitivity of a model that its framework differentiates, whatever runtime it is tuned for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds, Gradients
from autotune.algorithms import fake_quantize, weight_parameters
from autotune.config import CalibrationMethod, OpConfig, QuantizationConfig
from autotune.errors import DataError
from autotune.granularity import PerAxis, PerGroup
from autotune.space import TuningSpace
from autotune.tuning.hessian import HessianSensitivity


class LabelledFeeds(dict[str, Array]):
    """Feeds that still know the labels of their batch; runtimes read them as any feeds.

    Args:
        feeds: An array for every input of the model.
        labels: Whatever came with it; None where nothing did.
    """

    def __init__(self, feeds: Feeds, labels: Any) -> None:
        super().__init__(feeds)
        self.labels = labels


class SourceGradients:
    """Weights and probes of the user's own object; see :class:`autotune.adapter.Differentiable`.

    A model is the config that makes a candidate, or None for fp32. A weight is rounded by its scheme
    alone, so that no runtime is asked for it: recipes that move weights are left out.

    Args:
        gradients: Derivatives that the framework gives.
        labelled: Whether the loss is the cross entropy with the labels of the batches.
    """

    def __init__(self, gradients: Gradients, *, labelled: bool = False) -> None:
        self._gradients = gradients
        self._labelled = labelled

    def weights(self, model: QuantizationConfig | None) -> Mapping[str, Array]:
        """By op: its weights in fp32, or what their integers stand for."""
        weights = self._gradients.weights()
        if model is None:
            return {op: weight for op, (weight, _) in weights.items()}
        return {op: _rounded(weight, axis, model[op]) for op, (weight, axis) in weights.items()}

    def hessian_probe(self, model: QuantizationConfig | None, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        """By op with weights: ``v' H v`` for a vector of random signs, of the fp32 model."""
        assert model is None
        return self._gradients.hessian_probe(feeds, seed=seed, labels=_labels(feeds) if self._labelled else None)


def source_sensitivity(
    gradients: Gradients | None,
    space: TuningSpace,
    feeds: Sequence[Feeds],
    affordable: Callable[[], bool],
    labelled: bool = False,
) -> dict[str, float]:
    """By op of the space: mean of the Hessian's diagonal times the squared error of its weights.

    Args:
        gradients: Derivatives of the user's own object.
        space: Space of the runtime; its preferred choices are what weights are rounded to.
        feeds: A few batches; probes take them in turn.
        affordable: Whether there is time for another probe.
        labelled: Whether the loss is the cross entropy with the labels of the batches.

    Raises:
        DataError: ``labelled``, and the batches have no labels, or others than classes.
    """
    if gradients is None:
        return {}
    estimate: HessianSensitivity[Any] = HessianSensitivity(
        SourceGradients(gradients, labelled=labelled), None, feeds, affordable
    )
    found = estimate(space.quick(space.preferred))
    return {op: found[op] for op in found if op in space.by_name}


def _labels(feeds: Feeds) -> Any:
    labels = feeds.labels if isinstance(feeds, LabelledFeeds) else None
    if labels is None:
        raise DataError(
            "The loss of labels needs a calibration dataloader that yields `(inputs, labels)`, but this one yields "
            "inputs alone. Yield the labels too, or take strategy 'hawq' with loss='outputs', which needs none"
        )
    return labels


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
