"""Calibration: the statistics that one pass over data leaves; ranges and scales are made in ``autotune.algorithms``."""

from autotune.calibration.collector import StatisticsCollector
from autotune.calibration.examples import ExampleReservoir
from autotune.calibration.histogram import Histogram, HistogramCollector
from autotune.calibration.moments import ChannelMoments
from autotune.calibration.statistics import CalibrationStatistics, TensorStatistics

__all__ = [
    "CalibrationStatistics",
    "ChannelMoments",
    "ExampleReservoir",
    "Histogram",
    "HistogramCollector",
    "StatisticsCollector",
    "TensorStatistics",
]
