"""The trade-off of latency, loss and size, searched by a genetic algorithm."""

from autotune.strategies.pareto.pareto import Pareto

__all__ = ["Pareto"]
