"""Cross-layer equalization: pairs of convolutions, residual streams, the factors between them, absorbed offsets."""

from autotune.algorithms.equalization.factors import Equalized, equalize

__all__ = ["Equalized", "equalize"]
