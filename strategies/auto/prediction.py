"""Linear models of loss and cost that give the uncertainty of their predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class LinearModel:
    """Bayesian linear regression with independent priors: ``y = features @ weights``.

    The posterior is computed in the space of observations, of which there are few, so that hundreds of weights cost
    nothing. Formulas: ``mean = m + S A' K^-1 (y - A m)`` and ``covariance = S - S A' K^-1 A S`` with
    ``K = A S A' + N`` (Bishop, Pattern Recognition and Machine Learning, 3.3, with the matrix inversion lemma).

    Args:
        mean: Prior mean, (n,).
        std: Prior standard deviation, (n,).
        features: A row per observation, (t, n).
        observed: Observed values, (t,).
        noise: Standard deviation of each observation, (t,).
    """

    def __init__(self, *, mean: Vector, std: Vector, features: Vector, observed: Vector, noise: Vector) -> None:
        self.mean, self._variance = mean, std**2
        self._explained = np.zeros((0, len(mean)))
        if len(observed):
            spread = features * self._variance
            # Inverted, small as it is: BLAS spreads triangular solves over threads that wait for longer than they work.
            root = np.linalg.inv(np.linalg.cholesky(features @ spread.T + np.diag(noise**2)))
            self._explained = root @ spread
            self.mean = mean + (root @ (observed - features @ mean)) @ self._explained

    def predict(self, rows: Vector) -> tuple[Vector, Vector]:
        """Mean and standard deviation of ``rows @ weights``, for rows of shape (p, n); each (p,)."""
        variance = rows**2 @ self._variance - ((rows @ self._explained.T) ** 2).sum(axis=1)
        return rows @ self.mean, np.sqrt(np.maximum(variance, 0.0))
