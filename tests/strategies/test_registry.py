from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from optuna.samplers import RandomSampler

from autotune import strategies
from autotune.errors import StrategyError
from autotune.strategies import STRATEGIES, as_strategy, create_strategy, strategy_class, strategy_names
from autotune.strategies.basic import Basic
from autotune.strategies.optuna_sampler import OptunaSampler


def test_every_docstring_says_what_it_costs_and_when_to_choose_it() -> None:
    for name, cls in STRATEGIES.items():
        assert cls.__doc__ is not None, name
        text = " ".join(cls.__doc__.split())
        assert "Costs:" in text, name
        assert "Choose it" in text, name


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(StrategyError, match=r"no strategy 'bayesain'. Did you mean 'bayesian'\?.*auto.*basic.*random"):
        create_strategy("bayesain")


def test_an_unknown_option_names_the_allowed_ones() -> None:
    with pytest.raises(StrategyError, match=r"no option 'unifrom'. Did you mean 'uniform'\? It has: uniform"):
        create_strategy("basic", unifrom=3)
    with pytest.raises(StrategyError, match=r"'random' has no option 'seed'. It has none"):
        create_strategy("random", seed=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("basic", {"uniform": 0}),
        ("auto", {"patience": 0}),
        ("auto", {"templates": 0}),
        ("pareto", {"population": 1}),
        ("bayesian", {"model": "forest"}),
        ("bayesian", {"explore": 0}),
        ("mse_v2", {"candidates": 0}),
        ("exhaustive", {"limit": 0}),
    ],
)
def test_an_option_out_of_range_is_named(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(StrategyError, match=next(iter(options))):
        create_strategy(name, **options)


def test_as_strategy_takes_a_name_an_instance_and_a_sampler() -> None:
    made = as_strategy("basic", {"uniform": 2})
    assert isinstance(made, Basic)
    assert made.uniform == 2
    assert as_strategy(made) is made
    assert isinstance(as_strategy(RandomSampler()), OptunaSampler)
    with pytest.raises(StrategyError, match="Options belong to a strategy given by name"):
        as_strategy(made, {"uniform": 3})
    with pytest.raises(StrategyError, match="must be a name"):
        as_strategy(3)  # type: ignore[arg-type]  # what a user may do


def test_installed_packages_bring_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    group = strategies.ENTRY_POINT_GROUP
    points = [
        EntryPoint("mine", "autotune.strategies.basic:Basic", group),
        EntryPoint("function", "autotune.strategies:create_strategy", group),
        EntryPoint("absent", "no_such_package:Strategy", group),
    ]
    monkeypatch.setattr(strategies, "entry_points", lambda group: [point for point in points if point.group == group])
    assert strategy_names()[-3:] == ["absent", "function", "mine"]
    assert isinstance(create_strategy("mine"), Basic)
    with pytest.raises(StrategyError, match="must name a class"):
        strategy_class("function")
    with pytest.raises(StrategyError, match="cannot be imported: ModuleNotFoundError"):
        strategy_class("absent")
