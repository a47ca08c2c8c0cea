"""What ``auto`` predicts with: linear models of loss and cost, and the integer program that picks a config by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Vector = npt.NDArray[np.float64]

_GAP = 5e-3
"""Relative optimality gap of what fp32 adds to the cost: far below what a latency measurement resolves."""

_REPEATS = 5
"""How many choices that were tried may come out in a row before the program is taken to have no other."""


class LinearModel:
    """Bayesian linear regression with independent priors: ``y = features @ weights``.

    The posterior is computed in the space of observations, of which there are few, so that hundreds of weights cost
    nothing. Formula: ``mean = m + S A' K^-1 (y - A m)``, ``K = A S A' + N`` (Bishop, Pattern Recognition and Machine
    Learning, 3.3, with the matrix inversion lemma).

    Args:
        mean: Prior mean, (n,).
        std: Prior standard deviation, (n,).
        features: One row per observation, (t, n).
        observed: What was observed, (t,).
        noise: Standard deviation of each observation, (t,).
    """

    def __init__(self, *, mean: Vector, std: Vector, features: Vector, observed: Vector, noise: Vector) -> None:
        self.mean, variance = mean, std**2
        if len(observed):
            spread = features * variance
            gain = np.linalg.solve(features @ spread.T + np.diag(noise**2), spread)
            self.mean = mean + (observed - features @ mean) @ gain
            variance = variance - np.einsum("tn,tn->n", spread, gain)
        self.std = np.sqrt(np.maximum(variance, 0.0))


@dataclass(frozen=True, kw_only=True)
class Program:
    """Which ops are in fp32, so that the cost is least while the loss keeps to a budget.

    Attributes:
        gain: What each op adds to the cost when it is in fp32, (n,).
        loss: What each op loses when it is in int8, (n,), not negative.
        budget: The largest sum of losses.
        crossing: Cost of a conversion after an op, by its position.
        readers: The ops that read each op's output, by position. One conversion serves all readers.
        tried: Choices that must not come out, (t, n), 1 for fp32.
    """

    gain: Vector
    loss: Vector
    budget: float
    crossing: Mapping[int, float]
    readers: Mapping[int, Sequence[int]]
    tried: npt.NDArray[np.bool_]

    def solve(self) -> npt.NDArray[np.bool_] | None:
        """One flag per op, true for fp32; None where no choice keeps to the budget."""
        n = len(self.gain)
        if n == 0:
            return None
        crossings = [op for op, cost in self.crossing.items() if cost > 0 and self.readers.get(op)]
        cost = np.concatenate([self.gain, [self.crossing[op] for op in crossings]])
        integrality = np.concatenate([np.ones(n), np.zeros(len(crossings))])
        # Each choice that is ruled out is a dense row, which slows the solver down; most never come up.
        excluded: list[npt.NDArray[np.bool_]] = []
        while len(excluded) <= _REPEATS:
            rows, low = self._rows(crossings, excluded)
            solution = milp(
                cost,
                integrality=integrality,
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(rows, lb=low),
                options={"mip_rel_gap": _GAP},
            )
            if solution.x is None:
                return None
            chosen: npt.NDArray[np.bool_] = solution.x[:n] > 0.5
            if not (self.tried == chosen).all(axis=1).any():
                return chosen
            excluded.append(chosen)
        return None

    def _rows(self, crossings: Sequence[int], excluded: Sequence[npt.NDArray[np.bool_]]) -> tuple[csr_array, Vector]:
        """The constraints as ``rows @ x >= low``."""
        n = len(self.gain)
        scale = max(float(self.loss.sum()), 1e-12)
        entries: list[tuple[int, int, float]] = [(0, op, float(self.loss[op]) / scale) for op in range(n)]
        low = [1.0 - self.budget / scale]
        for choice in excluded:
            entries += [(len(low), op, -1.0 if fp32 else 1.0) for op, fp32 in enumerate(choice)]
            low.append(1.0 - float(choice.sum()))
        for column, op in enumerate(crossings, start=n):
            for reader in self.readers[op]:
                for sign in (1.0, -1.0):
                    entries += [(len(low), column, 1.0), (len(low), op, -sign), (len(low), reader, sign)]
                    low.append(0.0)
        row, col, value = zip(*entries, strict=True)
        return csr_array((value, (row, col)), shape=(len(low), n + len(crossings))), np.asarray(low)

    def crossing_cost(self, fp32: npt.NDArray[np.bool_]) -> float:
        """What the conversions of a choice cost."""
        return sum(
            cost
            for op, cost in self.crossing.items()
            if any(fp32[reader] != fp32[op] for reader in self.readers.get(op, ()))
        )
