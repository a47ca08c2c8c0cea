"""The contract of every strategy: built-in ones and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autotune.errors import StrategyError
from autotune.strategies import create_strategy, strategy_names
from autotune.strategy import Strategy
from autotune.testing import StrategySuite

OPTIONS: dict[str, dict[str, int]] = {"exhaustive": {"limit": 10**12}, "pareto": {"population": 6}}
"""Options that fit a strategy to spaces and budgets this small; others run with their defaults."""


class TestEveryStrategy(StrategySuite):
    @pytest.fixture(params=strategy_names())
    def make(self, request: pytest.FixtureRequest) -> Callable[[], Strategy]:
        return lambda: create_strategy(request.param, **OPTIONS.get(request.param, {}))


@pytest.mark.parametrize("name", strategy_names())
def test_an_unknown_option_is_named(name: str) -> None:
    with pytest.raises(StrategyError, match="no option 'colour'"):
        create_strategy(name, colour="red")
