"""The choices of one candidate for its graph as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any


class BiasCorrection(StrEnum):
    """How an op's bias is changed to remove the shift that quantized weights cause in its mean output."""

    NONE = "none"
    FAST = "fast"
    """The shift is computed from the statistics alone."""
    FULL = "full"
    """The shift is measured in the quantized model on a few samples, op after op in graph order."""


class WeightRounding(StrEnum):
    """How weights become integers."""

    NEAREST = "nearest"
    GPTQ = "error_feedback"
    """Rounds one input channel after the other and hands each error on to those that follow. Reads ``gptq`` as well."""

    @classmethod
    def _missing_(cls, value: object) -> WeightRounding | None:
        return cls.GPTQ if value == "gptq" else None

    def __repr__(self) -> str:
        # The history keeps a hash of the space's `repr`, in which the member was called as its value is.
        return f"<{type(self).__name__}.{self.value.upper()}: {self.value!r}>"


class WeightOnly(StrEnum):
    """How weights that are stored in blocks of 4 or 8 bits are rounded."""

    RTN = "rtn"
    """Each weight is rounded to the nearest value between the block's ends."""
    HQQ = "hqq"
    """Scales are chosen for the least error of each block; no data is needed."""
    GPTQ = "gptq"
    """GPTQ: one input channel after the other, the error of each handed on to those that follow, on a few samples."""


class SmoothQuant(StrEnum):
    """How much of the range of activations moves into the weights that read them (alpha in arXiv 2211.10438)."""

    NONE = "none"
    AUTO = "auto"
    """An alpha for each tensor, by the least estimated error."""
    HALF = "0.5"
    THREE_QUARTERS = "0.75"

    @property
    def alpha(self) -> float | None:
        """The same alpha for all tensors; None where there is none."""
        return None if self in (SmoothQuant.NONE, SmoothQuant.AUTO) else float(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Choices for the graph as a whole.

    Attributes:
        reduce_range: Weights use 7 of their 8 bits, so that the sum of two u8 x s8 products cannot exceed the 16 bits
            in which CPUs without VNNI accumulate them.
        bound_pairs: Weights use all 8 bits, and scales are as large as that sum demands of each output channel's own
            neighbours. With ``reduce_range``, whose weights satisfy that anyway, it changes nothing.
        equalization: Channels between two convolutions are scaled to ranges that int8 serves better.
        bias_correction: How biases make up for quantized weights.
        weight_rounding: How weights become integers.
        smooth_quant: How outliers of activations move into the weights that read them.
        weight_only: How weights of precision ``int8_weight`` and ``int4_weight`` are rounded.
        options: Values of options that the adapter declares (:class:`~autotune.options.AdapterOption`), by name. An
            option at its default is not among them, so that equal recipes compare equal: a space makes them so.
    """

    reduce_range: bool = False
    bound_pairs: bool = False
    equalization: bool = False
    bias_correction: BiasCorrection = BiasCorrection.NONE
    weight_rounding: WeightRounding = WeightRounding.NEAREST
    smooth_quant: SmoothQuant = SmoothQuant.NONE
    weight_only: WeightOnly = WeightOnly.RTN
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # JSON and Optuna hand back plain strings.
        object.__setattr__(self, "bias_correction", BiasCorrection(self.bias_correction))
        object.__setattr__(self, "weight_rounding", WeightRounding(self.weight_rounding))
        object.__setattr__(self, "smooth_quant", SmoothQuant(self.smooth_quant))
        object.__setattr__(self, "weight_only", WeightOnly(self.weight_only))
        own = {f.name for f in dataclasses.fields(self)}
        for name, value in self.options.items():
            if name in own or not isinstance(value, str):
                raise ValueError(f"An option must be text under a name of its own, but got {name!r}: {value!r}")
        object.__setattr__(self, "options", {name: str(self.options[name]) for name in sorted(self.options)})

    def __hash__(self) -> int:
        return hash((*(getattr(self, name) for name in RECIPE_FIELDS), *self.options.items()))

    def __getitem__(self, name: str) -> Any:
        """The value of a field, or of an option that is not at its default.

        Raises:
            KeyError: It is neither.
        """
        return getattr(self, name) if name in RECIPE_FIELDS else self.options[name]

    def to_json(self) -> dict[str, Any]:
        """The fields and options that differ from their defaults: one that is added later changes no stored hash."""
        return dict(self._json)

    @cached_property
    def _json(self) -> Mapping[str, Any]:
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        values = {
            name: self[name]
            for name in recipe_names(tuple(self.options))
            if name not in RECIPE_FIELDS or self[name] != defaults[name]
        }
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Recipe:
        """Read what :meth:`to_json` wrote. A key that is no field is an option, which only the adapter knows.

        Raises:
            ValueError: A value is not one of those known, or an option's is no text.
        """
        return _read(*((name, type(value), value) for name, value in data.items()))


@lru_cache(maxsize=2**10)
def _read(*items: tuple[str, type, Any]) -> Recipe:
    """The recipe of these names, types and values; one object for all that are alike, as a history has them often."""
    fields = {name: value for name, _, value in items if name in RECIPE_FIELDS}
    return Recipe(**fields, options={name: value for name, _, value in items if name not in RECIPE_FIELDS})


RECIPE_FIELDS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "options")
"""Fields that every adapter may offer; options are beside them."""


def recipe_names(options: Sequence[str]) -> tuple[str, ...]:
    """The names of fields and options in their order.

    Stored runs count recipes in this order, in which the first options came before ``weight_only``.
    """
    return (*RECIPE_FIELDS[:-1], *options, RECIPE_FIELDS[-1])
