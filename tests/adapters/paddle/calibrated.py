"""Networks of these tests, loaded and calibrated once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from autotune.adapter import Array, Execution
from autotune.adapters.paddle.adapter import PaddleAdapter
from autotune.adapters.paddle.candidate import by_op
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.runtime import Kernel, Probe
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizationConfig, Recipe
from tests.adapters.paddle import networks

ADAPTER = PaddleAdapter()
ONE = Execution(threads=1)


@functools.cache
def calibrated(name: str) -> tuple[PaddleModel, CalibrationStatistics]:
    """A network by the name of its class, and its statistics."""
    with paddle.utils.unique_name.guard():  # Paddle counts layers over the whole process
        network = networks.filled(getattr(networks, name)())
    model = ADAPTER.load(networks.saved(network))
    return model, ADAPTER.calibrate(model, networks.batches(), seed=0)


def choices(model: PaddleModel) -> dict[str, OpConfig]:
    """By op that can be int8: its preferred choice."""
    return dict(ADAPTER.space(model).preferred.ops)


def candidate(name: str, ops: Sequence[str] | None = None, recipe: Recipe | None = None) -> PaddleModel:
    """A network with these ops in int8; None: all that can be."""
    model, statistics = calibrated(name)
    chosen = {op: choice for op, choice in choices(model).items() if ops is None or op in ops}
    return ADAPTER.apply(model, QuantizationConfig(ops=chosen, recipe=recipe or Recipe()), statistics)


def outputs(model: PaddleModel) -> Array:
    return np.asarray(ADAPTER.runner(model, ONE)(networks.batches()[0])[0])


def kernels(model: PaddleModel) -> dict[str, Kernel]:
    """By op: the kernel that ran."""
    found, _ = Probe(model, ONE).run(networks.batches()[0])
    return by_op(model, found)


def sqnr_db(reference: Array, value: Array) -> float:
    noise = float(np.square(reference - value).mean())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(reference).mean() / noise))
