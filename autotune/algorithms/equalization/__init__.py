"""Cross-layer equalization: pairs of convolutions, residual streams, the factors between them, absorbed offsets."""

from autotune.algorithms.equalization.factors import Equalized, equalize
from autotune.algorithms.equalization.observed import observed_tensors

__all__ = ["Equalized", "equalize", "observed_tensors"]
