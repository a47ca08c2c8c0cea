"""What the recipes' algorithms are told of a graph, whatever framework it belongs to.

Arrays are laid out as ONNX lays them out: activations of convolutions are (N, C, spatial...), their weights
(outputs, inputs / groups, kernel...). An adapter whose framework lays them out otherwise transposes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """How a convolution goes over what it reads, for R spatial axes.

    Attributes:
        groups: Into how many groups its channels fall; each filter reads the channels of one group.
        strides: Shape (R,).
        dilations: Shape (R,).
        pads: Zeros before and after each spatial axis, shape (2R,): first all that come before, then all that come
            after. None where they are chosen at run time.
    """

    groups: int = 1
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None

    @property
    def padded(self) -> bool:
        """Whether filters may see zeros that no op has written."""
        return self.pads is None or any(self.pads)
