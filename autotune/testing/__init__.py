"""Suites of tests for what third parties add to autotune: adapters, strategies and metrics; they need pytest."""

from autotune.errors import MissingDependencyError

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "The suites of `autotune.testing` need the package 'pytest', which is not installed. "
        "Install it with `pip install pytest`"
    ) from error

# Failed assertions of the suites show their values, as those of a test module do.
pytest.register_assert_rewrite("autotune.testing.adapters", "autotune.testing.metrics", "autotune.testing.strategies")

from autotune.testing.adapters import AdapterSuite  # noqa: E402  after the registration
from autotune.testing.driver import Run  # noqa: E402
from autotune.testing.metrics import MetricSuite  # noqa: E402
from autotune.testing.strategies import StrategySuite  # noqa: E402
from autotune.testing.synthetic import Synthetic, make_model, make_space, with_precisions  # noqa: E402

__all__ = [
    "AdapterSuite",
    "MetricSuite",
    "Run",
    "StrategySuite",
    "Synthetic",
    "make_model",
    "make_space",
    "with_precisions",
]
