"""Second-order sensitivity: how much a loss rises where the weights of one op are quantized.

HAWQ-V2 (Dong et al., NeurIPS 2020, arXiv 1911.03852): the mean of the Hessian's diagonal over an op's weights, times
their squared quantization error. The trace is estimated with Hutchinson's method: ``v' H v`` has it as its mean, for
vectors ``v`` of random signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.adapter import Differentiable, Feeds, ModelT

_Figures: TypeAlias = npt.NDArray[np.float64]

_FEWEST, _MOST = 4, 64
"""Probes for a trace: below, an estimate is a guess; beyond, another one changes little."""

_EXACT_ENOUGH = 0.1
_SMALL = 0.1
"""Probing ends where each product is known to a tenth of itself, or of a tenth of the largest where it is less."""


class HessianSensitivity(Generic[ModelT]):
    """Estimates the sensitivity of each op with constant weights.

    Args:
        adapter: Gives weights and probes.
        model: The fp32 model.
        feeds: A few batches; probes take them in turn.
        affordable: Whether there is time for another probe.
        seed: Seed of the probes' signs.
    """

    def __init__(
        self,
        adapter: Differentiable,
        model: ModelT,
        feeds: Sequence[Feeds],
        affordable: Callable[[], bool],
        seed: int = 0,
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._feeds = feeds
        self._affordable = affordable
        self._seed = seed

    def __call__(self, quantized: ModelT) -> dict[str, float]:
        """By op: mean of the Hessian's diagonal times the squared error of its weights in ``quantized``."""
        before, after = self._adapter.weights(self._model), self._adapter.weights(quantized)
        ops = [op for op in before if op in after]
        errors = np.array([float(np.square(np.float64(after[op]) - before[op]).sum()) for op in ops])
        sizes = np.array([max(1, before[op].size) for op in ops])
        products: list[_Figures] = []
        while len(products) < _FEWEST or (len(products) < _MOST and self._affordable()):
            index = len(products)
            if index >= _FEWEST and _settled(np.array(products)):
                break
            probe = self._adapter.hessian_probe(
                self._model, self._feeds[index % len(self._feeds)], seed=self._seed + index
            )
            products.append(errors / sizes * np.array([probe.get(op, 0.0) for op in ops]))
        # The loss is least at the fp32 weights or near; a negative estimate says that nothing was found.
        means = np.maximum(np.mean(products, axis=0), 0.0) if ops else np.empty(0)
        return dict(zip(ops, means.tolist(), strict=True))


def _settled(products: _Figures) -> bool:
    """Whether more probes would not change the order of the ops that matter."""
    if products.size == 0:
        return True
    means, noise = products.mean(axis=0), products.std(axis=0, ddof=1) / np.sqrt(len(products))
    least = _SMALL * np.abs(means).max()
    return bool((noise <= _EXACT_ENOUGH * np.maximum(np.abs(means), least)).all())
