"""Choices that one adapter alone knows, as it declares them; everything else carries them without knowing them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Self

from autotune.errors import ApplyError
from autotune.suggestion import suggestion


class Touches(Flag):
    """Properties of a candidate that another value of an option changes."""

    VALUES = auto()
    """The values that it computes, and with that its accuracy."""
    KERNELS = auto()
    """How it is executed, and with that its latency. Alone, it leaves outputs as they are but for rounding."""


class Price(StrEnum):
    """Effort of applying a value."""

    NOTHING = "nothing"
    SECONDS = "seconds"
    """So many seconds that figures of many configs are taken without it."""


@dataclass(frozen=True, kw_only=True)
class AdapterOption:
    """A choice for the graph as a whole that belongs to one adapter.

    An adapter declares each of its options once, with all values that there are, and offers some of the values for a
    model with :meth:`offering`. In JSON, in an experiment file and in reports an option stands beside the fields of
    :class:`~autotune.recipe.Recipe`, under its own name; a value that is the default is left out.

    Attributes:
        name: Name as users write it; none of a recipe's own fields.
        values: Values that may be chosen, preferred ones first.
        default: Value of a recipe that does not name the option.
        touches: Properties of a candidate that another value changes.
        price: Effort of applying a value that is not the default.
        description: A sentence for users.
    """

    name: str
    values: tuple[str, ...]
    default: str
    touches: Touches
    price: Price = Price.NOTHING
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"An option's name must be an identifier, but got {self.name!r}")
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"An option needs one or more values, each once, but {self.name!r} got {self.values}")

    def offering(self, *values: str) -> Self:
        """The same option where a model offers these values only, preferred ones first."""
        unknown = [value for value in values if value not in self.values]
        if unknown:
            raise ValueError(f"Option {self.name!r} offers {', '.join(self.values)}, but got {', '.join(unknown)}")
        return dataclasses.replace(self, values=values)

    def of(self, options: Mapping[str, str]) -> str:
        """The value that a recipe's options name, or the default."""
        return options.get(self.name, self.default)

    @property
    def quick(self) -> bool:
        """Whether figures of many configs are taken with it: it changes values, and costs nothing to apply."""
        return Touches.VALUES in self.touches and self.price is Price.NOTHING


def require_declared(options: Mapping[str, str], declared: Sequence[AdapterOption]) -> None:
    """See that an adapter knows the options of a recipe, as :meth:`autotune.adapter.Adapter.apply` has to.

    Raises:
        ApplyError: An option or its value is none of those declared.
    """
    known = {option.name: option for option in declared}
    for name, value in options.items():
        if name not in known:
            raise ApplyError(
                f"An option of a recipe must be one that the adapter declares, but got {name!r}"
                f"{suggestion(name, known)}. It declares: {', '.join(known) or 'none'}"
            )
        if value not in known[name].values:
            raise ApplyError(
                f"The option {name!r} must be one of {', '.join(known[name].values)}, but got {value!r}"
                f"{suggestion(value, known[name].values)}"
            )
