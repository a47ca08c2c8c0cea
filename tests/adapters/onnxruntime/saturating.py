"""Integer kernels as the CPU that runs the tests computes them, exactly: with 32-bit sums, or as x86 without VNNI."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from autotune.adapter import Array
from autotune.config import Recipe
from autotune.host import current_host


def exact_here(recipe: Recipe) -> Recipe:
    """A recipe whose weights have all 8 bits where this CPU sums products up in 32 bits.

    Where it does not, they are what cannot saturate: a test that compares with fp32 or with exact sums finds these on
    every CPU.
    """
    return dataclasses.replace(recipe, bound_pairs=current_host().saturates_u8s8)


EXACT_HERE = exact_here(Recipe())


def integer_product(activations: Array, weights: Array, *, saturates: bool | None = None) -> Array:
    """The product of u8 activations (rows, summed) and s8 weights (summed, outputs): int64, (rows, outputs).

    Args:
        activations: As the kernel reads them, their zero point not yet taken off.
        weights: Likewise.
        saturates: Whether two products, those of an even position and of the next, are added in 16 bits, as
            ``VPMADDUBSW`` does. None for what this CPU does.
    """
    rows, columns = activations.astype(np.int64), weights.astype(np.int64)
    if not (current_host().saturates_u8s8 if saturates is None else saturates):
        return np.asarray(rows @ columns)
    rows = np.pad(rows, [(0, 0), (0, rows.shape[1] % 2)])
    columns = np.pad(columns, [(0, columns.shape[0] % 2), (0, 0)])
    products = rows[:, :, None] * columns[None]
    return np.asarray(np.clip(products[:, 0::2] + products[:, 1::2], -32768, 32767).sum(axis=1))


def patches(pictures: Array, kernel: Sequence[int]) -> Array:
    """The values that a convolution without padding sums up, channels last: (N * positions, kernel * C) of (N, C, H,
    W)."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures, tuple(kernel), axis=(2, 3))
    return np.asarray(windows.transpose(0, 2, 3, 4, 5, 1).reshape(-1, kernel[0] * kernel[1] * pictures.shape[1]))
