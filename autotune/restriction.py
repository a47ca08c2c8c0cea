"""The part of a tuning space that a user allows: by op type, by op name, and for the graph."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.arguments import check_fields
from autotune.config import CalibrationAlgorithm, Granularity, Precision, QuantizedType, TensorScheme
from autotune.errors import ExperimentError, InputError
from autotune.space import OpSpace, PrecisionSpace, RecipeSpace, TuningSpace
from autotune.suggestion import suggestion

_GLOB = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class SchemeRestriction:
    """Which tensor schemes are allowed. A field that is None allows everything.

    Attributes:
        dtype: Integer types.
        symmetric: Whether ranges are symmetric.
        granularity: Numbers of scales.
    """

    dtype: tuple[QuantizedType, ...] | None = None
    symmetric: bool | None = None
    granularity: tuple[Granularity, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, InputError)

    def allows(self, scheme: TensorScheme) -> bool:
        """Whether ``scheme`` is allowed."""
        return (
            (self.dtype is None or scheme.dtype in self.dtype)
            and (self.symmetric is None or scheme.symmetric == self.symmetric)
            and (self.granularity is None or scheme.granularity in self.granularity)
        )

    def overridden_by(self, other: SchemeRestriction) -> SchemeRestriction:
        """This restriction with the fields that ``other`` sets."""
        return dataclasses.replace(self, **_set_fields(other))


@dataclass(frozen=True, kw_only=True)
class OpRestriction:
    """Which choices are allowed for some ops. A field that is None allows everything.

    Attributes:
        precision: Precisions.
        activation: Schemes of the tensors that the op reads.
        weight: Schemes of constant weights.
        algorithm: Calibration algorithms, as ``minmax`` or ``percentile:99.99``; a bare ``percentile`` allows each of
            the percentiles that the op offers.
    """

    precision: tuple[Precision, ...] | None = None
    activation: SchemeRestriction = SchemeRestriction()
    weight: SchemeRestriction = SchemeRestriction()
    algorithm: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, InputError)

    def overridden_by(self, other: OpRestriction) -> OpRestriction:
        """This restriction with the fields that ``other`` sets."""
        return OpRestriction(
            precision=self.precision if other.precision is None else other.precision,
            activation=self.activation.overridden_by(other.activation),
            weight=self.weight.overridden_by(other.weight),
            algorithm=self.algorithm if other.algorithm is None else other.algorithm,
        )

    def apply(self, space: PrecisionSpace) -> PrecisionSpace:
        """The choices of one precision that are allowed; an axis on which none is left is empty."""
        return dataclasses.replace(
            space,
            activations=tuple(scheme for scheme in space.activations if self.activation.allows(scheme)),
            weights=tuple(scheme for scheme in space.weights if self.weight.allows(scheme)),
            algorithms=tuple(algorithm for algorithm in space.algorithms if self._allows_algorithm(algorithm)),
        )

    def _allows_algorithm(self, algorithm: CalibrationAlgorithm) -> bool:
        return self.algorithm is None or str(algorithm) in self.algorithm or str(algorithm.method) in self.algorithm


@dataclass(frozen=True, kw_only=True)
class SpaceRestriction:
    """The part of a space that a user allows; the ``quantization`` section of an experiment.

    An op takes the restriction of its type; the fields that a restriction by name sets come before it, those of a later
    name before those of an earlier one.

    Attributes:
        op_type: By op type.
        op_name: By op name, or by a pattern of op names such as ``block1/*``.
        recipe: The values allowed for fields of the recipe.
        excluded: Precisions that no op takes unless a restriction of its type or name asks for them.
    """

    op_type: Mapping[str, OpRestriction] = field(default_factory=dict)
    op_name: Mapping[str, OpRestriction] = field(default_factory=dict)
    recipe: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    excluded: frozenset[Precision] = frozenset()

    def __post_init__(self) -> None:
        check_fields(self, InputError)

    def apply(self, space: TuningSpace) -> TuningSpace:
        """The part of ``space`` that is allowed, the adapter's order of preference kept.

        An op of a restricted type, or one that a pattern matches, keeps its choices of precision where it cannot
        compute in any that is asked for; an op that is named must offer what is asked for.

        Raises:
            ExperimentError: A name or a type matches no op, or a restriction leaves an op without any choice.
        """
        matched = self._matches(space)
        ops = []
        for op in space.ops:
            wanted = self.op_type.get(op.op_type, OpRestriction())
            for pattern, names in matched.items():
                if op.name in names:
                    wanted = wanted.overridden_by(self.op_name[pattern])
            offered = op if wanted.precision is not None else self._without_excluded(op)
            ops.append(_restrict(offered, wanted, named=op.name in self.op_name))
        return TuningSpace(ops=tuple(ops), recipe=self._restrict_recipe(space.recipe))

    def among(self, spaces: Sequence[TuningSpace]) -> list[SpaceRestriction]:
        """For each of several spaces, in their order, the part of this that is about something in it.

        Runtimes have ops, types and options of their own. A choice that no space has stays in every part, so that
        :meth:`apply` tells the user.
        """

        def part(mapping: Mapping[str, Any], known: Sequence[bool]) -> dict[str, Any]:
            return {name: value for (name, value), here in zip(mapping.items(), known, strict=True) if here}

        def there(names: Mapping[str, Any], has: Callable[[TuningSpace, str], bool]) -> list[list[bool]]:
            known = {name: [has(space, name) for space in spaces] for name in names}
            return [[known[name][i] or not any(known[name]) for name in names] for i in range(len(spaces))]

        types = there(self.op_type, lambda space, name: any(op.op_type == name for op in space.ops))
        ops = there(self.op_name, lambda space, pattern: bool(_matching(space, pattern)))
        recipes = there(self.recipe, lambda space, name: name in space.recipe.names)
        return [
            dataclasses.replace(
                self,
                op_type=part(self.op_type, types[i]),
                op_name=part(self.op_name, ops[i]),
                recipe=part(self.recipe, recipes[i]),
            )
            for i in range(len(spaces))
        ]

    def _without_excluded(self, op: OpSpace) -> OpSpace:
        kept = tuple(within for within in op.precisions if within.precision not in self.excluded)
        return dataclasses.replace(op, precisions=kept or op.precisions)

    def _matches(self, space: TuningSpace) -> dict[str, frozenset[str]]:
        """The ops that each name or pattern stands for."""
        types = dict.fromkeys(op.op_type for op in space.ops)
        for op_type in self.op_type:
            if op_type not in types:
                raise ExperimentError(
                    f"`quantization.op_type` must name op types of the model, but it has no {op_type!r}"
                    f"{suggestion(op_type, types)}. It has: {', '.join(types) or 'none that can be quantized'}"
                )
        matched = {}
        for pattern in self.op_name:
            names = _matching(space, pattern)
            if not names:
                raise ExperimentError(
                    f"`quantization.op_name` must name ops that can be quantized, but {pattern!r} matches none"
                    f"{suggestion(pattern, space.by_name)}. `autotune inspect MODEL` lists them"
                )
            matched[pattern] = names
        return matched

    def _restrict_recipe(self, recipe: RecipeSpace) -> RecipeSpace:
        kept: dict[str, Any] = {}
        for name, allowed in self.recipe.items():
            if name not in recipe.names:
                raise ExperimentError(
                    f"`quantization.recipes` must name choices that there are for this model, but it has no {name!r}"
                    f"{suggestion(name, recipe.names)}. It has: {', '.join(recipe.names)}"
                )
            offered = recipe[name]
            kept[name] = tuple(value for value in offered if value in allowed)
            if not kept[name]:
                raise ExperimentError(
                    f"`quantization.recipes.{name}` must allow one of the values that there are for this model "
                    f"({_listed(offered)}), but it allows {_listed(allowed)}"
                )
        return recipe.restricted(kept)


def _matching(space: TuningSpace, pattern: str) -> frozenset[str]:
    """The ops that a name or a pattern stands for."""
    names = frozenset({pattern} & set(space.by_name))
    if not names and _GLOB & set(pattern):
        names = frozenset(fnmatch.filter(space.by_name, pattern))
    return names


def _restrict(op: OpSpace, wanted: OpRestriction, *, named: bool) -> OpSpace:
    precisions = op.precisions
    if wanted.precision is not None:
        kept = tuple(space for space in precisions if space.precision in wanted.precision)
        if not kept and named:
            raise ExperimentError(
                f"Op {op.name!r} ({op.op_type}) can compute in {_listed(space.precision for space in precisions)}, "
                f"but `precision` allows {_listed(wanted.precision)}"
            )
        precisions = kept or precisions
    return dataclasses.replace(op, precisions=tuple(_restrict_precision(op, space, wanted) for space in precisions))


def _restrict_precision(op: OpSpace, space: PrecisionSpace, wanted: OpRestriction) -> PrecisionSpace:
    kept = wanted.apply(space)
    for axis, asked in (
        ("activations", wanted.activation),
        ("weights", wanted.weight),
        ("algorithms", wanted.algorithm),
    ):
        if getattr(space, axis) and not getattr(kept, axis):
            fields = {"algorithm": asked} if isinstance(asked, tuple) else _set_fields(asked)
            allowed = _listed(f"{key} {_shown(value)}" for key, value in fields.items())
            raise ExperimentError(
                f"Op {op.name!r} ({op.op_type}) in {space.precision} offers the {axis} "
                f"{_listed(getattr(space, axis))}, and none of them fits what `quantization` allows: {allowed}"
            )
    return kept


def _set_fields(restriction: Any) -> dict[str, Any]:
    """The fields that are not None."""
    values = ((f.name, getattr(restriction, f.name)) for f in dataclasses.fields(restriction))
    return {name: value for name, value in values if value is not None}


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _shown(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
