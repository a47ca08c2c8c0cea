"""``autotune check`` on an emulated CPU: the kernels that ONNX Runtime takes there saturate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.config import MINMAX, Granularity, OpConfig, Precision, QuantizedType, Recipe
from autotune.config import TensorScheme as Scheme
from autotune.emulation import find_emulator
from autotune.host import current_host
from tests.cli.conftest import Command

ADAPTER = OnnxRuntimeAdapter()
EMULATOR = find_emulator()


def save_tuned(source: Path, path: Path) -> Path:
    """The network with every op in static int8."""
    model = ADAPTER.load(source)
    images = np.random.default_rng(2).normal(size=(8, 3, 16, 16)).astype(np.float32)
    statistics = ADAPTER.calibrate(model, [{"data": images}], seed=0)
    weight = Scheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
    choice = OpConfig(
        precision=Precision.INT8, activation=Scheme(dtype=QuantizedType.U8), weight=weight, calibration=MINMAX
    )
    config = ADAPTER.space(model).uniform(choice, Recipe())
    ADAPTER.save(ADAPTER.apply(model, config, statistics), path, {})
    return path


def cells(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.strip().startswith(name)).split()


@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64 (apt install qemu-user) on x86 Linux")
@pytest.mark.skipif(current_host().saturates_u8s8, reason="this CPU saturates itself, or is an emulated one")
def test_a_real_run_on_an_emulated_cpu(command: Command, network_file: Path, tmp_path: Path) -> None:
    """Positive pictures and 8-bit weights: products saturate there and not here."""
    images = np.abs(np.random.default_rng(2).normal(size=(16, 3, 16, 16)))
    np.savez(tmp_path / "plain.npz", data=images.astype(np.float32))
    tuned = save_tuned(network_file, tmp_path / "tuned.onnx")
    there = cells(command("check", tuned.name, "--data", "plain.npz", "--samples", 16).out, "Haswell")
    assert there[1] == "yes"
    assert float(there[2]) < 60.0
