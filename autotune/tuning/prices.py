"""The least time that the next candidate takes, from what was measured of those before it."""

from __future__ import annotations

import dataclasses

from autotune.config import QuantizationConfig, Recipe
from autotune.trial import Measurement, Trial

_FASTEST = 4.0
"""Largest speedup assumed for a candidate's evaluation before one was evaluated."""


class Prices:
    """Seconds that the candidates of a run took, by what they were spent on.

    The time to make a candidate depends on its recipe: correcting biases on examples takes a hundred times as long as
    leaving them.
    """

    def __init__(self) -> None:
        self._made: dict[Recipe, float] = {}
        self._evaluated_s: float | None = None

    def made(self, config: QuantizationConfig, seconds: float) -> None:
        """Called with what making a candidate took."""
        recipe = _values_alone(config.recipe)
        self._made[recipe] = min(seconds, self._made.get(recipe, seconds))

    def evaluated(self, measured: Measurement, seconds: float) -> None:
        """Called with what measuring a candidate took, its latency included.

        One that was pruned by its latency tells nothing of what an evaluation takes, nor does one that could end early.
        """
        if measured.loss is not None and measured.samples is None:
            self._evaluated_s = min(seconds, self._evaluated_s or seconds)

    def least_s(self, config: QuantizationConfig, baseline: Trial) -> float:
        """Seconds that a config takes at the least.

        Args:
            config: The next one. Where no candidate was made with its recipe, the cheapest of the others tells.
            baseline: The fp32 trial: how long its evaluation took, and whether an evaluation can end early: a metric
                may end one after its first samples, a user's function runs to its end.
        """
        made = self._made.get(_values_alone(config.recipe), min(self._made.values(), default=0.0))
        measured = baseline.measurement
        if measured is None or measured.samples is not None:
            return made
        if self._evaluated_s is not None:
            return made + self._evaluated_s
        return made + (baseline.duration_s or 0.0) / _FASTEST


def _values_alone(recipe: Recipe) -> Recipe:
    """The same without the options of an adapter, which say how a model is written and executed and cost nothing."""
    return dataclasses.replace(recipe, options={})
