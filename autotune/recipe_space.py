"""The choices that are allowed for the graph as a whole."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from autotune.options import AdapterOption, Touches
from autotune.recipe import (
    RECIPE_FIELDS,
    BiasCorrection,
    Recipe,
    SmoothQuant,
    WeightOnly,
    WeightRounding,
    recipe_names,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class RecipeSpace:
    """The values of each field of :class:`Recipe` and of each option of the adapter, preferred ones first."""

    reduce_range: tuple[bool, ...] = (False,)
    bound_pairs: tuple[bool, ...] = (False,)
    equalization: tuple[bool, ...] = (False,)
    bias_correction: tuple[BiasCorrection, ...] = (BiasCorrection.NONE,)
    weight_rounding: tuple[WeightRounding, ...] = (WeightRounding.NEAREST,)
    smooth_quant: tuple[SmoothQuant, ...] = (SmoothQuant.NONE,)
    weight_only: tuple[WeightOnly, ...] = (WeightOnly.RTN,)
    options: tuple[AdapterOption, ...] = ()

    def __post_init__(self) -> None:
        for name in RECIPE_FIELDS:
            if not getattr(self, name):
                raise ValueError(f"A recipe field needs at least one value, but {name!r} got none")
        names = [option.name for option in self.options]
        if len({*names, *RECIPE_FIELDS}) != len(names) + len(RECIPE_FIELDS):
            raise ValueError(f"An option needs a name of its own, but got {names} beside {list(RECIPE_FIELDS)}")

    def __repr__(self) -> str:
        # The history keeps a hash of it, by which a workspace of an earlier version is known to be about this space.
        return f"RecipeSpace({', '.join(f'{name}={self[name]!r}' for name in self.names)})"

    @cached_property
    def by_name(self) -> Mapping[str, AdapterOption]:
        """The options by their names."""
        return {option.name: option for option in self.options}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of fields and options, in their order."""
        return recipe_names(tuple(self.by_name))

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        """The values of a field or an option, preferred ones first.

        Raises:
            KeyError: There is neither.
        """
        if name in RECIPE_FIELDS:
            values: tuple[Any, ...] = getattr(self, name)
            return values
        return self.by_name[name].values

    def value(self, recipe: Recipe, name: str) -> Any:
        """A recipe's value of a field or an option, an option's default included."""
        return recipe[name] if name in RECIPE_FIELDS else self.by_name[name].of(recipe.options)

    def made(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with these values of fields and options; those that are not named are at their defaults."""
        fields = {name: value for name, value in values.items() if name in RECIPE_FIELDS}
        options = {name: str(value) for name, value in values.items() if name not in RECIPE_FIELDS}
        kept = {name: value for name, value in options.items() if value != self.by_name[name].default}
        return Recipe(**fields, options=kept)

    def changed(self, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
        """A recipe with other values of some fields and options."""
        return self.made({**{name: self.value(recipe, name) for name in self.names}, **values})

    def restricted(self, kept: Mapping[str, Sequence[Any]]) -> Self:
        """This space with fewer values of some fields and options."""
        fields: dict[str, Any] = {name: tuple(values) for name, values in kept.items() if name in RECIPE_FIELDS}
        options = tuple(
            option.offering(*kept[option.name]) if option.name in kept else option for option in self.options
        )
        return dataclasses.replace(self, **fields, options=options)

    @property
    def preferred(self) -> Recipe:
        """The adapter's own preference."""
        return next(self.recipes())

    @property
    def size(self) -> int:
        """How many recipes there are."""
        return math.prod(len(self[name]) for name in self.names)

    def recipes(self) -> Iterator[Recipe]:
        """Every recipe once, preferred ones first."""
        for values in itertools.product(*(self[name] for name in self.names)):
            yield self.made(dict(zip(self.names, values, strict=True)))

    def others(self, recipe: Recipe, name: str) -> Iterator[Recipe]:
        """The recipe with each other value of one field or option, preferred ones first."""
        for value in self[name]:
            if value != self.value(recipe, name):
                yield self.changed(recipe, {name: value})

    def quick(self, recipe: Recipe) -> Recipe:
        """A recipe without what takes seconds to apply or changes kernels alone, for figures of many configs."""
        bias = BiasCorrection.FAST if recipe.bias_correction is BiasCorrection.FULL else recipe.bias_correction
        quick = {option.name for option in self.options if option.quick}
        options = {name: value for name, value in recipe.options.items() if name in quick}
        return dataclasses.replace(
            recipe,
            bias_correction=bias,
            weight_rounding=WeightRounding.NEAREST,
            weight_only=WeightOnly.RTN,
            options=options,
        )

    def executed(self, recipe: Recipe) -> Recipe:
        """A recipe with the same kernels and without what takes seconds to apply and changes values alone."""
        kernels = {name: recipe.options[name] for name in self.execution_options if name in recipe.options}
        quick = self.quick(recipe)
        return dataclasses.replace(quick, options={**quick.options, **kernels})

    @property
    def execution_options(self) -> tuple[str, ...]:
        """The names of options that change how a model is executed."""
        return tuple(option.name for option in self.options if Touches.KERNELS in option.touches)

    def __contains__(self, recipe: Recipe) -> bool:
        known = recipe.options.keys() <= self.by_name.keys()
        return known and all(self.value(recipe, name) in self[name] for name in self.names)
