from __future__ import annotations

import numpy as np
import torch

from autotune.adapter import ActivationGrid, Array
from autotune.adapters.pytorch.training.rounding import (
    FakeQuantizedParameter,
    FakeQuantizedTensor,
    FoldedBias,
    FoldedWeight,
)

U8 = ActivationGrid(scale=0.5, zero_point=10, smallest=0, largest=255)


def test_values_are_rounded_half_to_even_and_cut_off_at_both_ends() -> None:
    values = torch.tensor([-100.0, -5.0, 0.0, 0.25, 0.26, 0.75, 122.5, 1000.0])
    rounded = FakeQuantizedTensor(U8)(values)
    assert rounded.tolist() == [-5.0, -5.0, 0.0, 0.0, 0.5, 1.0, 122.5, 122.5]


def test_gradients_pass_rounding_and_stop_where_a_value_was_cut_off() -> None:
    values = torch.tensor([-100.0, -5.0, 0.3, 122.5, 1000.0], requires_grad=True)
    (FakeQuantizedTensor(U8)(values) * torch.arange(1.0, 6.0)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_a_weight_is_rounded_in_the_runtimes_layout() -> None:
    seen = []

    def rounded(weight: Array) -> Array:
        seen.append(weight.copy())
        return np.rint(weight)

    weight = torch.tensor([[0.4, 1.6, -0.6], [2.2, -1.2, 0.1]], requires_grad=True)
    found = FakeQuantizedParameter(rounded, transposed=True)(weight)
    assert found.tolist() == [[0.0, 2.0, -1.0], [2.0, -1.0, 0.0]]
    assert seen[0].shape == (3, 2)
    (found * 3).sum().backward()
    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [3.0]


def test_a_folded_batch_norm_computes_the_same() -> None:
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.5)
        norm.weight.copy_(torch.randn(4))
        norm.bias.copy_(torch.randn(4))
        x = torch.randn(2, 3, 8, 8)
        weight = FoldedWeight(norm.eps)(conv.weight, norm.running_var, norm.weight)
        bias = FoldedBias(norm.eps)(conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, bias), norm(conv(x)))
        plain = FoldedBias(norm.eps)(None, norm.running_mean, norm.running_var, None, None)
    torch.testing.assert_close(plain, -norm.running_mean / torch.sqrt(norm.running_var + norm.eps))
