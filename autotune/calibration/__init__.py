"""Calibration: statistics from one pass over data, ranges from the statistics, scales from the ranges."""

from autotune.calibration.affine import (
    AffineParameters,
    affine_parameters,
    dequantize,
    fake_quantize,
    integer_range,
    quantize,
    weight_parameters,
)
from autotune.calibration.collector import StatisticsCollector
from autotune.calibration.examples import ExampleReservoir
from autotune.calibration.histogram import Histogram, HistogramCollector
from autotune.calibration.moments import ChannelMoments
from autotune.calibration.pairs import WeightLimits, can_saturate
from autotune.calibration.ranges import activation_range
from autotune.calibration.statistics import CalibrationStatistics, TensorStatistics

__all__ = [
    "AffineParameters",
    "CalibrationStatistics",
    "ChannelMoments",
    "ExampleReservoir",
    "Histogram",
    "HistogramCollector",
    "StatisticsCollector",
    "TensorStatistics",
    "WeightLimits",
    "activation_range",
    "affine_parameters",
    "can_saturate",
    "dequantize",
    "fake_quantize",
    "integer_range",
    "quantize",
    "weight_parameters",
]
