"""Every op that multiplies can be quantized, or a note says why it cannot: modules as people bring them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autotune.adapter import Example
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.source import TorchSource
from autotune.config import Precision, QuantizationConfig
from tests.adapters.pytorch.calibrated import ADAPTER, ONE
from tests.adapters.pytorch.networks import seeded

COUNTED = torch.Generator().manual_seed(5)


class Attention(nn.Module):
    """PyTorch's own encoder, whose layers have a fast path in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.pool = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.encoder(x)
        pooled: torch.Tensor = self.pool(y[:, :1], y, y, need_weights=False)[0]
        return pooled[:, 0]


class UNet(nn.Module):
    """Down and up again, by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.bottom = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        across = functional.relu(self.down(x))
        deep = functional.relu(self.bottom(functional.max_pool2d(across, 2)))
        return self.out(torch.cat([across, self.up(deep)], 1))


class Tied(nn.Module):
    """Whole numbers in, and a head whose matrix is the table; one layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids).mean(1)
        return self.head(torch.tanh(self.middle(torch.tanh(self.middle(x)))))


class Audio(nn.Module):
    """One channel of sound, and a slice of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 8, 9, stride=4)
        self.second = nn.Conv1d(8, 8, 3, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.second(functional.silu(self.first(x))))
        return self.head(y.mean(-1))[:, 2:5]


class Volume(nn.Module):
    """Three dimensions, depthwise, and products without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv3d(4, 4, 3, padding=1, groups=4)
        self.matrix = nn.Parameter(torch.zeros(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(functional.relu(self.conv(x))).mean((2, 3, 4))
        return self.head(torch.einsum("bi,io->bo", y @ self.matrix, self.matrix))


class Text(nn.Module):
    """A model of Hugging Face's form, an Elman network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.elman = nn.RNN(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert labels is None
        x = self.table(input_ids)
        mask = None if attention_mask is None else attention_mask[:, None, :].bool()
        y = functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), attn_mask=mask)
        return self.head(self.elman(y)[0][:, -1])


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=COUNTED)


def counts(*shape: int) -> torch.Tensor:
    return torch.randint(0, 20, shape, generator=COUNTED)


def text() -> dict[str, torch.Tensor]:
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[1:, 4:] = 0
    return {"input_ids": counts(4, 6), "attention_mask": mask, "surplus": counts(4)}


MODULES: dict[str, tuple[type[nn.Module], Any, set[str], dict[str, str]]] = {
    "attention": (
        Attention,
        lambda: floats(4, 5, 16),
        {
            "encoder.layers.0.self_attn.in_proj",
            "encoder.layers.0.self_attn.out_proj",
            "encoder.layers.0.linear1",
            "encoder.layers.0.linear2",
            "pool.linear",
            "pool.linear_1",
            "pool.out_proj",
        },
        {
            "encoder.layers.0.self_attn.scaled_dot_product_attention": "attention multiplies activations",
            "pool.scaled_dot_product_attention": "attention multiplies activations",
        },
    ),
    "unet": (UNet, lambda: floats(4, 3, 8, 8), {"down", "bottom", "out"}, {"up": "transposed convolutions"}),
    "tied": (Tied, lambda: counts(4, 5), {"middle", "middle_1", "head"}, {}),
    "audio": (Audio, lambda: floats(4, 1, 80), {"second", "head"}, {"first": "one input channel"}),
    "volume": (
        Volume,
        lambda: floats(4, 2, 4, 4, 4),
        {"head"},
        {
            "conv": "three dimensions",
            "depthwise": "three dimensions",
            "matrix": "no `nn.Linear`",
            "einsum": "no `nn.Linear`",
        },
    ),
    "text": (
        Text,
        text,
        {"query", "key", "value", "head"},
        {"scaled_dot_product_attention": "attention multiplies activations", "elman": "LSTM and GRU"},
    ),
}


def loaded(name: str) -> tuple[nn.Module, PytorchModel, list[dict[str, Any]]]:
    """The module, the model, and three batches as the model takes them."""
    kind, batch, _, _ = MODULES[name]
    module = seeded(kind())
    data = [batch() for _ in range(3)]
    model = ADAPTER.load(module, Example(data))
    reader = TorchSource().reader(module)
    read = [reader(item) for item in data]
    return module, model, [each if isinstance(each, dict) else {model.inputs[0].name: each} for each in read]


@pytest.mark.parametrize("name", MODULES)
def test_every_op_that_multiplies_is_offered_or_named_with_a_reason(name: str) -> None:
    _, _, offered, left = MODULES[name]
    _, model, _ = loaded(name)
    assert {op.name for op in model.ops if op.kind != "Add"} == offered
    lines = [line.partition(": fp32 on PyTorch, since ") for line in model.notes]
    assert {op: reason for ops, _, reason in lines for op in ops.replace("'", "").split(", ")}.keys() == left.keys()
    for op, part in left.items():
        assert any(f"'{op}'" in ops and part in reason for ops, _, reason in lines), f"{op}: {part}"


@pytest.mark.parametrize("name", MODULES)
def test_all_that_is_offered_can_be_int8_at_once(name: str) -> None:
    _, model, batches = loaded(name)
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    fp32 = ADAPTER.quick_runner(model, ONE)(batches[0])[0]
    for wanted in (Precision.INT8, Precision.INT8_DYNAMIC):
        choices = {op.name: op.space_of(wanted) or op.space_of(Precision.INT8) for op in ADAPTER.space(model).ops}
        config = QuantizationConfig(ops={op: each.preferred for op, each in choices.items() if each is not None})
        found = ADAPTER.quick_runner(ADAPTER.apply(model, config, statistics), ONE)(batches[0])[0]
        noise = float(np.square(found - fp32).mean() / np.square(fp32).mean())
        assert 0 < noise < 0.02, f"{name} in {wanted}"
