"""The choices that a search has: for every op, and for the graph as a whole."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.config import (
    FP32,
    CalibrationAlgorithm,
    OpConfig,
    Precision,
    QuantizationConfig,
    Recipe,
    TensorScheme,
)
from autotune.recipe_space import RecipeSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["FP32_SPACE", "OpSpace", "PrecisionSpace", "RecipeSpace", "TuningSpace"]

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class PrecisionSpace:
    """The choices that come with one precision of one op. The first of each is the adapter's own preference.

    An empty tuple says that the precision has no such choice: fp32 has none at all.
    """

    precision: Precision
    activations: tuple[TensorScheme, ...] = ()
    weights: tuple[TensorScheme, ...] = ()
    algorithms: tuple[CalibrationAlgorithm, ...] = ()

    @cached_property
    def preferred(self) -> OpConfig:
        """The adapter's own preference."""
        return next(self.configs())

    @cached_property
    def size(self) -> int:
        """How many configs there are."""
        return math.prod(max(1, len(axis)) for axis in (self.activations, self.weights, self.algorithms))

    def configs(self) -> Iterator[OpConfig]:
        """Every config once, preferred ones first."""
        axes = itertools.product(self.activations or (None,), self.weights or (None,), self.algorithms or (None,))
        for activation, weight, calibration in axes:
            yield OpConfig(precision=self.precision, activation=activation, weight=weight, calibration=calibration)

    def __contains__(self, config: OpConfig) -> bool:
        return config.precision is self.precision and all(
            value in axis if axis else value is None
            for value, axis in (
                (config.activation, self.activations),
                (config.weight, self.weights),
                (config.calibration, self.algorithms),
            )
        )


FP32_SPACE = PrecisionSpace(precision=Precision.FP32)


@dataclass(frozen=True, kw_only=True)
class OpSpace:
    """The choices of one op.

    Attributes:
        name: The node's name in the graph.
        op_type: The graph's own name for the kind of op.
        precisions: Precisions that it may compute in, the adapter's preference first.
    """

    name: str
    op_type: str
    precisions: tuple[PrecisionSpace, ...]

    def __post_init__(self) -> None:
        names = [space.precision for space in self.precisions]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"An op needs one or more precisions, each once, but {self.name!r} got {names}")

    def __contains__(self, config: OpConfig) -> bool:
        return any(config in space for space in self.precisions)

    @cached_property
    def preferred(self) -> OpConfig:
        """The adapter's own preference."""
        return self.precisions[0].preferred

    @cached_property
    def size(self) -> int:
        """How many configs there are."""
        return sum(space.size for space in self.precisions)

    def configs(self) -> Iterator[OpConfig]:
        """Every config once, preferred ones first."""
        for space in self.precisions:
            yield from space.configs()

    def without(self, ruled_out: Collection[Precision]) -> OpSpace:
        """The same without some precisions; fp32 alone where nothing else is left."""
        left = tuple(within for within in self.precisions if within.precision not in ruled_out)
        return dataclasses.replace(self, precisions=left or (FP32_SPACE,))

    def space_of(self, precision: Precision) -> PrecisionSpace | None:
        """The choices of one precision, or None where the op cannot compute in it."""
        return next((space for space in self.precisions if space.precision is precision), None)


@dataclass(frozen=True, kw_only=True)
class TuningSpace:
    """All choices: for each op, in graph order, and for the recipe."""

    ops: tuple[OpSpace, ...]
    recipe: RecipeSpace = dataclasses.field(default_factory=RecipeSpace)

    def __post_init__(self) -> None:
        if len(self.by_name) != len(self.ops):
            raise ValueError("Every op of a space must have a name of its own")

    def quick(self, config: QuantizationConfig) -> QuantizationConfig:
        """The same config without what its recipe does in seconds; see :meth:`RecipeSpace.quick`."""
        return dataclasses.replace(config, recipe=self.recipe.quick(config.recipe))

    @cached_property
    def by_name(self) -> Mapping[str, OpSpace]:
        """The ops by their names."""
        return {op.name: op for op in self.ops}

    @property
    def tunable(self) -> tuple[OpSpace, ...]:
        """The ops that have a choice besides fp32."""
        return tuple(op for op in self.ops if op.precisions != (FP32_SPACE,))

    @cached_property
    def size(self) -> int:
        """How many configs there are; exact, however large."""
        return math.prod(op.size for op in self.ops) * self.recipe.size

    @cached_property
    def preferred(self) -> QuantizationConfig:
        """Every op and the recipe as the adapter prefers them: the config to try first."""
        return QuantizationConfig(ops={op.name: op.preferred for op in self.ops}, recipe=self.recipe.preferred)

    def __contains__(self, config: QuantizationConfig) -> bool:
        return (
            (config.is_fp32 or self._with_effect(config) in self.recipe)
            and set(config.ops) <= set(self.by_name)
            and all(config[op.name] in op for op in self.ops)
        )

    def _with_effect(self, config: QuantizationConfig) -> Recipe:
        """The recipe with a value that is allowed where it has no effect."""
        if config.stores_weights_only:
            return config.recipe
        return dataclasses.replace(config.recipe, weight_only=self.recipe.weight_only[0])

    def nearest(self, op: str, wanted: OpConfig) -> OpConfig:
        """The choice of ``op`` that agrees with ``wanted`` in most fields, the precision first.

        Strategies use it to apply one choice to many ops that do not all offer it.
        """
        space = self.by_name[op]
        if wanted in space:
            return wanted
        within = space.space_of(wanted.precision)
        if within is None:
            return FP32 if FP32 in space else space.preferred
        return OpConfig(
            precision=wanted.precision,
            activation=_nearest(wanted.activation, within.activations),
            weight=_nearest(wanted.weight, within.weights),
            calibration=_nearest(wanted.calibration, within.algorithms),
        )

    def uniform(self, wanted: OpConfig, recipe: Recipe | None = None) -> QuantizationConfig:
        """``wanted`` for every op, as near as each op offers it."""
        return QuantizationConfig(
            ops={op.name: self.nearest(op.name, wanted) for op in self.ops}, recipe=recipe or self.recipe.preferred
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna sees it: a categorical parameter for every field that has more than one value.

        Parameters are called ``op/field`` and ``recipe/field``. Fields that an op's precision does not use are
        ignored by :meth:`decode`.
        """
        from optuna.distributions import CategoricalDistribution  # noqa: PLC0415  Optuna takes half a second to import

        params: dict[str, Sequence[Any]] = {}
        for op in self.ops:
            params[f"{op.name}/precision"] = [str(space.precision) for space in op.precisions]
            for field in ("activations", "weights", "algorithms"):
                values = dict.fromkeys(str(value) for space in op.precisions for value in getattr(space, field))
                params[f"{op.name}/{field}"] = list(values)
        for name in self.recipe.names:
            params[f"recipe/{name}"] = self.recipe[name]
        return {name: CategoricalDistribution(values) for name, values in params.items() if len(values) > 1}

    def decode(self, params: Mapping[str, Any]) -> QuantizationConfig:
        """The config that a point of :meth:`distributions` stands for."""
        ops = {}
        for op in self.ops:
            wanted = params.get(f"{op.name}/precision", str(op.precisions[0].precision))
            space = next(space for space in op.precisions if space.precision == wanted)
            activation, weight, calibration = (
                _chosen(params.get(f"{op.name}/{field}"), getattr(space, field))
                for field in ("activations", "weights", "algorithms")
            )
            ops[op.name] = OpConfig(
                precision=space.precision, activation=activation, weight=weight, calibration=calibration
            )
        recipe = {name: params.get(f"recipe/{name}", self.recipe[name][0]) for name in self.recipe.names}
        return QuantizationConfig(ops=ops, recipe=self.recipe.made(recipe))

    def encode(self, config: QuantizationConfig) -> dict[str, Any]:
        """The point of :meth:`distributions` that decodes to ``config``; fields without effect get their first value.

        Raises:
            ValueError: ``config`` lies outside of this space.
        """
        if config not in self:
            raise ValueError(f"Only a config of the space can be encoded, but {config.fingerprint} is not one")
        params: dict[str, Any] = {}
        for op in self.ops:
            choice = config[op.name]
            params[f"{op.name}/precision"] = str(choice.precision)
            for field, value in (
                ("activations", choice.activation),
                ("weights", choice.weight),
                ("algorithms", choice.calibration),
            ):
                params[f"{op.name}/{field}"] = None if value is None else str(value)
        for name in self.recipe.names:
            value = self.recipe.value(config.recipe, name)
            params[f"recipe/{name}"] = value if value in self.recipe[name] else None
        from optuna.distributions import CategoricalDistribution  # noqa: PLC0415  Optuna takes half a second to import

        distributions = self.distributions()
        return {
            name: params[name] if params[name] is not None else distribution.choices[0]
            for name, distribution in distributions.items()
            if isinstance(distribution, CategoricalDistribution)
        }


def _nearest(wanted: _Value | None, offered: Sequence[_Value]) -> _Value | None:
    """The offered value that shares most fields with the wanted one, the first of equals; None if none is offered."""
    if not offered:
        return None
    if wanted is None or wanted in offered:
        return wanted if wanted is not None else offered[0]

    def shared(value: _Value) -> int:
        return sum(a == b for a, b in zip(vars(value).values(), vars(wanted).values(), strict=True))

    return max(offered, key=shared)


def _chosen(text: str | None, offered: Sequence[Any]) -> Any:
    """The offered value that ``text`` names, or the first one, or None where nothing is offered."""
    if not offered:
        return None
    return next((value for value in offered if str(value) == text), offered[0])
