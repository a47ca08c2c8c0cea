"""Find the fastest quantized model whose accuracy loss stays under a target, on the machine that will run it.

Names are imported when they are first used: ``import autotune`` alone loads no other package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.calibration import CalibrationStatistics
    from autotune.comparison import LayerDifference, compare
    from autotune.config import OpConfig, QuantizationConfig, Recipe
    from autotune.constraints import Constraints
    from autotune.criterion import Criterion, Interval, Verdict
    from autotune.errors import AutotuneError
    from autotune.observer import Observer
    from autotune.results.result import TuningResult
    from autotune.space import TuningSpace
    from autotune.strategy import Objective, Strategy
    from autotune.trial import Measurement, Trial, TrialState
    from autotune.tuning.applying import QuantizedModel, apply
    from autotune.tuning.tuner import Tuner, tune

__all__ = [
    "AutotuneError",
    "CalibrationStatistics",
    "Constraints",
    "Criterion",
    "Interval",
    "LayerDifference",
    "Measurement",
    "Objective",
    "Observer",
    "OpConfig",
    "QuantizationConfig",
    "QuantizedModel",
    "Recipe",
    "Strategy",
    "Trial",
    "TrialState",
    "Tuner",
    "TuningResult",
    "TuningSpace",
    "Verdict",
    "apply",
    "compare",
    "tune",
]

_HOMES = {
    "AutotuneError": "autotune.errors",
    "CalibrationStatistics": "autotune.calibration",
    "Constraints": "autotune.constraints",
    "Criterion": "autotune.criterion",
    "Interval": "autotune.criterion",
    "LayerDifference": "autotune.comparison",
    "Measurement": "autotune.trial",
    "Objective": "autotune.strategy",
    "Observer": "autotune.observer",
    "OpConfig": "autotune.config",
    "QuantizationConfig": "autotune.config",
    "QuantizedModel": "autotune.tuning.applying",
    "Recipe": "autotune.config",
    "Strategy": "autotune.strategy",
    "Trial": "autotune.trial",
    "TrialState": "autotune.trial",
    "Tuner": "autotune.tuning.tuner",
    "TuningResult": "autotune.results.result",
    "TuningSpace": "autotune.space",
    "Verdict": "autotune.criterion",
    "apply": "autotune.tuning.applying",
    "compare": "autotune.comparison",
    "tune": "autotune.tuning.tuner",
}
"""The module of each public name."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
