"""Options of runs that take a second."""

from __future__ import annotations

from typing import Any

from autotune.criterion import Criterion
from autotune.restriction import SpaceRestriction

PLAIN = SpaceRestriction(
    recipe={"equalization": (False,), "bias_correction": ("none",), "weight_rounding": ("nearest",)}
)
CHEAP: dict[str, Any] = {"framework": "numpy", "warmup": 1, "latency_max_s": 0.2, "restriction": PLAIN}
TOLERANT = Criterion(absolute=0.9)
