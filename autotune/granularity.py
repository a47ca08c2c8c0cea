"""How many scales a tensor has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Granularity:
    """How many scales a tensor has: one of :class:`PerTensor`, :class:`PerAxis` and :class:`PerGroup`.

    As text, in configs and experiment files, they are ``per_tensor``, ``per_channel`` and ``per_group:32``.
    """

    PER_TENSOR: ClassVar[PerTensor]
    PER_CHANNEL: ClassVar[PerAxis]
    PLAIN: ClassVar[tuple[Granularity, ...]]
    """Granularities that need no size."""

    @staticmethod
    def parse(text: str) -> Granularity:
        """Read what ``str`` wrote.

        Raises:
            ValueError: It is no granularity.
        """
        name, _, size = text.partition(":")
        plain = {str(each): each for each in Granularity.PLAIN}
        if text in plain:
            return plain[text]
        if name != "per_group" or not size.isdecimal():
            raise ValueError(
                f"must be {' or '.join(repr(each) for each in plain)}, or read like 'per_group:32', but got {text!r}"
            )
        return PerGroup(int(size))

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        # A granularity without a size is one object in every process, so that comparing by identity is right as well.
        return Granularity.parse, (str(self),)


@dataclass(frozen=True, repr=False)
class PerTensor(Granularity):
    """One scale for the tensor."""

    def __str__(self) -> str:
        return "per_tensor"

    def __repr__(self) -> str:
        # The history keeps a hash of the space's `repr`, in which this was a member of an enum.
        return "<Granularity.PER_TENSOR: 'per_tensor'>"


@dataclass(frozen=True, repr=False)
class PerAxis(Granularity):
    """A scale for each index along one axis: that of the output channels, which the op decides."""

    def __str__(self) -> str:
        return "per_channel"

    def __repr__(self) -> str:
        return "<Granularity.PER_CHANNEL: 'per_channel'>"  # as above


@dataclass(frozen=True)
class PerGroup(Granularity):
    """A scale for each group of neighbours along the axis that is summed over, within every output channel.

    Attributes:
        size: Values in a group; the last one may have fewer.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`size >= 1` must hold of a group, but got {self.size}")

    def __str__(self) -> str:
        return f"per_group:{self.size}"


Granularity.PER_TENSOR = PerTensor()
Granularity.PER_CHANNEL = PerAxis()
Granularity.PLAIN = (Granularity.PER_TENSOR, Granularity.PER_CHANNEL)
