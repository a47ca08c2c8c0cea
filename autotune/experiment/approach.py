"""The approach of an experiment: when ranges are found, and whether candidates are trained."""

from __future__ import annotations

from enum import StrEnum

from autotune.config import Precision
from autotune.experiment.section import Reference, Section


class Approach(StrEnum):
    """When the ranges of activations are found."""

    AUTO = "auto"
    STATIC = "static"
    DYNAMIC = "dynamic"
    QUANT_AWARE_TRAINING = "quant_aware_training"


EXCLUDED = {
    Approach.AUTO: frozenset[Precision](),
    Approach.STATIC: frozenset({Precision.INT8_DYNAMIC}),
    Approach.DYNAMIC: frozenset({Precision.INT8}),
    Approach.QUANT_AWARE_TRAINING: frozenset({Precision.INT8_DYNAMIC}),
}
"""The precisions that an approach rules out."""


class Train(Section):
    """Training of a candidate, where none keeps the target without."""

    function: Reference
    """A Python callable, as `module:function`. It gets the model in training mode and trains it in place."""
