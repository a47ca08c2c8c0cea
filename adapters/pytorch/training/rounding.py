"""Rounding that gradients pass: the straight-through estimator of Bengio et al. (arXiv 1308.3432)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autotune.adapter import ActivationGrid, Array


class FakeQuantizedTensor(nn.Module):
    """Rounds a tensor to the values of a grid; gradients pass where it was not cut off.

    It has no parameters and no buffers, so that the state of a model is the user's alone.

    Args:
        grid: The values.
    """

    def __init__(self, grid: ActivationGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tensor: torch.Tensor) -> Any:
        """The rounded tensor, of the same shape."""
        return _Rounded.apply(tensor, self.grid)

    def extra_repr(self) -> str:
        """The grid, for whoever prints the model."""
        return f"scale={self.grid.scale:.6g}, zero_point={self.grid.zero_point}"


class FakeQuantizedParameter(nn.Module):
    """Rounds a weight as its runtime does, with scales that follow the weight; gradients pass as they are.

    Args:
        rounded: Rounds an array in the runtime's layout.
        transposed: Whether the runtime's layout is the transpose of the module's.
    """

    def __init__(self, rounded: Callable[[Array], Array], *, transposed: bool) -> None:
        super().__init__()
        self.rounded = rounded
        self.transposed = transposed

    def forward(self, weight: torch.Tensor) -> Any:
        """The rounded weight, of the same shape."""
        return _RoundedWeight.apply(weight, self)


class FoldedWeight(nn.Module):
    """A convolution's weight times what the batch norm after it makes of each output channel.

    The running statistics are those of the user's module and do not change: ranges come from calibration, which saw
    the model with them.

    Args:
        epsilon: That of the batch norm.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, weight: torch.Tensor, variance: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """The folded weight, of the same shape."""
        factor = _factor(variance, scale, self.epsilon)
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))


class FoldedBias(nn.Module):
    """The bias of a convolution that a batch norm is folded into.

    Args:
        epsilon: That of the batch norm.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        variance: torch.Tensor,
        scale: torch.Tensor | None,
        shift: torch.Tensor | None,
    ) -> torch.Tensor:
        """The folded bias, one value for each output channel."""
        folded = ((0.0 if bias is None else bias) - mean) * _factor(variance, scale, self.epsilon)
        return folded if shift is None else folded + shift


def _factor(variance: torch.Tensor, scale: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    factor = torch.rsqrt(variance + epsilon)
    return factor if scale is None else factor * scale


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, grid: ActivationGrid) -> torch.Tensor:
        # A division, as QuantizeLinear does: torch's own fake quantization multiplies by the inverse.
        integers = (tensor / grid.scale).round_().add_(grid.zero_point)
        kept = integers.clamp(grid.smallest, grid.largest)
        ctx.save_for_backward(kept == integers)
        return kept.sub_(grid.zero_point).mul_(grid.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


class _RoundedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, how: FakeQuantizedParameter) -> torch.Tensor:  # noqa: ARG004
        array = weight.detach().cpu().numpy()
        rounded = how.rounded(array.T if how.transposed else array)
        back = torch.from_numpy((rounded.T if how.transposed else rounded).copy())
        return back.to(device=weight.device, dtype=weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return gradients[0], None
