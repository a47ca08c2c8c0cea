"""Sizes, samples of choices and noise, as the suites need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotune.adapter import Array
from autotune.config import OpConfig


def size_of(written: Sequence[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = [file for path in written for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def spread(choices: list[OpConfig], count: int = 6) -> list[OpConfig]:
    """A few of many, the first and the last among them."""
    picked = np.linspace(0, len(choices) - 1, min(count, len(choices))).astype(int)
    return [choices[index] for index in picked]


def sqnr_db(reference: Array, value: Array) -> float:
    """The signal-to-quantization-noise ratio in decibels."""
    noise = float(np.square(reference - value).mean())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(reference).mean() / noise))
