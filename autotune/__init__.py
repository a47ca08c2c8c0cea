"""Find the fastest quantized model whose accuracy loss stays under a target, on the machine that will run it."""

from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizationConfig, Recipe
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import AutotuneError
from autotune.observer import Observer
from autotune.results.result import TuningResult
from autotune.space import TuningSpace
from autotune.strategy import Objective, Strategy
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.tuner import Tuner, tune

__all__ = [
    "AutotuneError",
    "CalibrationStatistics",
    "Criterion",
    "Interval",
    "Measurement",
    "Objective",
    "Observer",
    "OpConfig",
    "QuantizationConfig",
    "Recipe",
    "Strategy",
    "Trial",
    "TrialState",
    "Tuner",
    "TuningResult",
    "TuningSpace",
    "Verdict",
    "tune",
]
