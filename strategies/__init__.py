"""The search strategies, a file or a small package each, and the look-up by name.

A package brings its own through the entry point group ``autotune.strategies``: a name, and a class that derives from
:class:`autotune.strategy.Strategy` and takes its options as keywords.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from optuna.samplers import BaseSampler, BruteForceSampler

from autotune.errors import StrategyError
from autotune.strategies.auto import Auto
from autotune.strategies.basic import Basic
from autotune.strategies.bayesian import Bayesian
from autotune.strategies.conservative import Conservative
from autotune.strategies.exhaustive import Exhaustive
from autotune.strategies.hawq import Hawq
from autotune.strategies.mse import Mse
from autotune.strategies.mse_v2 import MseV2
from autotune.strategies.optuna_sampler import OptunaSampler
from autotune.strategies.pareto import Pareto
from autotune.strategies.random import Random
from autotune.strategy import Strategy
from autotune.suggestion import nearest

__all__ = ["ENTRY_POINT_GROUP", "STRATEGIES", "as_strategy", "create_strategy", "strategy_class", "strategy_names"]

ENTRY_POINT_GROUP = "autotune.strategies"

STRATEGIES: dict[str, type[Strategy]] = {
    "auto": Auto,
    "basic": Basic,
    "bayesian": Bayesian,
    "conservative": Conservative,
    "exhaustive": Exhaustive,
    "hawq": Hawq,
    "mse": Mse,
    "mse_v2": MseV2,
    "pareto": Pareto,
    "random": Random,
}
"""The built-in strategies by name."""


def strategy_names() -> list[str]:
    """The names of all strategies, built-in ones first, then those that installed packages bring."""
    return [*STRATEGIES, *(name for name in sorted(_entry_points()) if name not in STRATEGIES)]


def strategy_class(name: str) -> type[Strategy]:
    """The class behind a name.

    Raises:
        StrategyError: The name is unknown, or an installed package brings something that is no strategy.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    found = _entry_points().get(name)
    if found is None:
        known = strategy_names()
        near = nearest(name, known)
        hint = f"Did you mean {near!r}? " if near else ""
        raise StrategyError(f"There is no strategy {name!r}. {hint}Known are: {', '.join(known)}")
    try:
        loaded = found.load()
    except Exception as error:
        raise StrategyError(
            f"Strategy {name!r} of entry point {found.value!r} cannot be imported: {type(error).__name__}: {error}. "
            "Repair or uninstall the package that brings it"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Strategy)):
        raise StrategyError(
            f"Entry point {found.value!r} must name a class that derives from autotune.strategy.Strategy, "
            f"but it gives {loaded!r}"
        )
    return loaded


def create_strategy(name: str, **options: Any) -> Strategy:
    """Make a strategy by name.

    Raises:
        StrategyError: The name or an option is unknown, or an option's value is out of range.
    """
    cls = strategy_class(name)
    allowed = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for option in options:
        if option not in allowed:
            near = nearest(option, allowed)
            hint = f"Did you mean {near!r}? " if near else ""
            has = f"It has: {', '.join(allowed)}" if allowed else "It has none"
            raise StrategyError(f"Strategy {name!r} has no option {option!r}. {hint}{has}")
    return cls(**options)


def as_strategy(strategy: str | Strategy | BaseSampler, options: Mapping[str, Any] | None = None) -> Strategy:
    """Make a strategy of whatever a user may give: a name with options, a strategy, or any Optuna sampler.

    Raises:
        StrategyError: It is none of these, or options were given with something that is already made.
    """
    if isinstance(strategy, str):
        return create_strategy(strategy, **(options or {}))
    if options:
        raise StrategyError(
            f"Options belong to a strategy given by name, but got {dict(options)} with {strategy!r}. "
            "Pass them to its constructor instead"
        )
    if isinstance(strategy, Strategy):
        return strategy
    if isinstance(strategy, BruteForceSampler):
        # It cannot read a study with a trial that has no parameters, as the fp32 baseline is; this enumerates the same.
        return Exhaustive()
    if isinstance(strategy, BaseSampler):
        return OptunaSampler(strategy)
    raise StrategyError(
        f"A strategy must be a name, an autotune.strategy.Strategy or an optuna.samplers.BaseSampler, but got "
        f"{strategy!r}. Known names are: {', '.join(strategy_names())}"
    )


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
