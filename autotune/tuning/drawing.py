"""Draws from the sampler of an Optuna study."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def suggest(handle: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Optuna's ``suggest`` call that belongs to a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return handle.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return handle.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return handle.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise TypeError(f"Optuna's categorical, int and float distributions can be drawn from, but got {distribution!r}")
