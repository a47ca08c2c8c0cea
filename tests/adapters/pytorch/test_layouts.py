"""Loaders whose batches have another type, size or memory layout than the module's own examples."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from autotune.adapter import Example, Feeds
from autotune.adapters.pytorch.source import TorchSource
from tests.adapters.pytorch.calibrated import ADAPTER, ONE
from tests.adapters.pytorch.modules import Network, Text, images, seeded, tokens

FRAMEWORK = TorchSource()
PICTURES = images(10)


def outputs(module: torch.nn.Module, loader: Iterable[Any]) -> list[np.ndarray]:
    """Outputs of the graph that is read from a module and its loader, one for each batch."""
    read = FRAMEWORK.reader(module)
    model = ADAPTER.load(module, Example(loader))
    names = [spec.name for spec in model.inputs]
    items: list[Any] = [read(item) for item in loader]
    batches: list[Feeds] = [item if isinstance(item, dict) else {names[0]: item} for item in items]
    samples = sum([len(batch[names[0]]) for batch in batches])
    assert ADAPTER.calibrate(model, batches, seed=0).samples == samples
    runner = ADAPTER.quick_runner(model, ONE)
    return [runner(batch)[0] for batch in batches]


@pytest.mark.parametrize(
    "loader",
    [
        pytest.param([PICTURES.double()], id="float64"),
        pytest.param([PICTURES.half()], id="float16"),
        pytest.param([PICTURES.bfloat16()], id="bfloat16"),
        pytest.param([PICTURES.clone().requires_grad_()], id="with gradients"),
        pytest.param(DataLoader(PICTURES[:3], batch_size=1), id="one sample a batch"),
        pytest.param(DataLoader(PICTURES, batch_size=4), id="a smaller last batch"),
        pytest.param([PICTURES[:1], PICTURES[1:]], id="a smaller first batch"),
        pytest.param([PICTURES.transpose(2, 3)[::2]], id="not contiguous"),
        pytest.param([PICTURES[:1].expand(4, 1, 8, 8)], id="one sample in one place of memory"),
        pytest.param([PICTURES.to(memory_format=torch.channels_last)], id="channels last"),
    ],
)
def test_batches_of_any_layout_are_what_the_module_reads(loader: Any) -> None:
    module = seeded(Network)
    with torch.no_grad():
        expected = [module(batch.float()).numpy() for batch in loader]
    for found, wanted in zip(outputs(module, loader), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_module_of_another_memory_layout_computes_the_same() -> None:
    module = seeded(Network).to(memory_format=torch.channels_last)
    (found,) = outputs(module, [PICTURES])
    with torch.no_grad():
        np.testing.assert_allclose(found, module(PICTURES).numpy(), rtol=1e-4, atol=1e-5)


def test_batches_with_keys_that_forward_does_not_take() -> None:
    batch = UserDict({**tokens(4, 6), "token_type_ids": torch.zeros(4, 6, dtype=torch.int64), "text": ["a"] * 4})
    module = seeded(Text)
    (found,) = outputs(module, [batch])
    with torch.no_grad():
        wanted = module(batch["input_ids"], batch["attention_mask"]).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
