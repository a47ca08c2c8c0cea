"""Weights that are computed, or that several modules share: how their ops are named and quantized."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from autotune.adapter import Example
from autotune.adapters.pytorch.export import exported
from autotune.adapters.pytorch.names import function_name, program_names
from autotune.adapters.pytorch.onnx import to_onnx
from autotune.config import Precision
from tests.adapters.pytorch.calibrated import Calibrated
from tests.adapters.pytorch.networks import seeded


class Parametrized(nn.Module):
    """Weights that are computed from others; a batch norm reads one of them, another lies behind a second module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.bn = nn.BatchNorm2d(8)
        self.plain = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
        self.fc = parametrizations.spectral_norm(nn.Linear(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn(self.conv(x)))
        scores: torch.Tensor = self.fc(functional.relu(self.plain(x)).mean((2, 3)))
        return scores


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.last = nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(torch.relu(self.first(x)))
        return scores


def layers_of(module: nn.Module, batch: torch.Tensor) -> tuple[set[str], set[str]]:
    """The names in the program, and those of the products in its ONNX graph."""
    program = exported(module, Example([batch]))
    proto = onnx.load_from_string(to_onnx(program))
    products = {node.name for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    return set(program_names(program).values()), products


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
def test_a_layer_whose_weight_is_computed_keeps_its_name() -> None:
    own, products = layers_of(seeded(Parametrized()), torch.randn(2, 3, 8, 8))
    assert {"conv", "bn", "plain", "fc"} <= own
    assert products == {"conv", "plain", "fc"}


def test_layers_that_share_a_weight_have_names_of_their_own() -> None:
    own, products = layers_of(seeded(Tied()), torch.randn(2, 6))
    assert {"first", "last"} <= own
    assert products == {"first", "last"}


def test_the_module_that_shares_work_out_is_in_no_name() -> None:
    own, products = layers_of(nn.DataParallel(seeded(Tied())), torch.randn(2, 6))
    assert {"first", "last"} <= own
    assert products == {"first", "last"}


def test_python_functions_are_named_as_users_write_them() -> None:
    assert function_name("<built-in function mul>") == "mul"


def test_computed_weights_are_quantized_as_constants() -> None:
    module = seeded(Parametrized())
    program = torch.export.export(module, (torch.randn(8, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    own = Calibrated(program, (3, 8, 8))
    assert [op.name for op in own.model.ops] == ["conv", "plain", "fc"]
    feeds = own.batches[0]
    with torch.no_grad():
        expected = module(torch.from_numpy(feeds["x"]))
    torch.testing.assert_close(torch.from_numpy(own.outputs(own.model)), expected, rtol=1e-4, atol=1e-5)
    noise = own.noise(own.applied(dict.fromkeys(("conv", "plain", "fc"), Precision.INT8)))
    assert 0 < noise < 1e-2
