"""A candidate's config: a choice for every op, and for the graph as a whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Self

from autotune.granularity import Granularity, PerAxis, PerGroup, PerTensor
from autotune.parsing import canonical_json, require_known
from autotune.recipe import (
    BiasCorrection,
    Recipe,
    SmoothQuant,
    WeightOnly,
    WeightRounding,
    recipe_names,
)

__all__ = [
    "FP32",
    "KL",
    "LEAST_ERROR",
    "MINMAX",
    "MSE",
    "PERCENTILE",
    "WEIGHT_ONLY",
    "BiasCorrection",
    "CalibrationAlgorithm",
    "CalibrationMethod",
    "Granularity",
    "OpConfig",
    "PerAxis",
    "PerGroup",
    "PerTensor",
    "Precision",
    "QuantizationConfig",
    "QuantizedType",
    "Recipe",
    "SmoothQuant",
    "TensorScheme",
    "WeightOnly",
    "WeightRounding",
]


class Precision(StrEnum):
    """How an op computes."""

    FP32 = "fp32"
    INT8 = "int8"
    """Static int8: weights and activations are quantized, activation ranges come from calibration."""
    INT8_DYNAMIC = "int8_dynamic"
    """Dynamic int8: weights are quantized ahead, what the op reads in every call anew, by its own range."""
    INT8_WEIGHT = "int8_weight"
    """Weights are stored in 8 bits, a scale for each block of them; the op computes with what they stand for."""
    INT4_WEIGHT = "int4_weight"
    """Weights of 4 bits; otherwise as with 8."""
    FP16 = "fp16"
    """IEEE 754 binary16: weights are stored in it, and the op computes in it between two conversions."""
    BF16 = "bf16"
    """The same in bfloat16, which has the range of fp32 and 8 bits of precision."""


WEIGHT_ONLY = frozenset({Precision.INT8_WEIGHT, Precision.INT4_WEIGHT})
"""Precisions that change how weights are stored and nothing else."""


class QuantizedType(StrEnum):
    """The integer type that a tensor is stored in."""

    U8 = "u8"
    S8 = "s8"


@dataclass(frozen=True, kw_only=True)
class TensorScheme:
    """How a tensor's real values map to integers: ``real = scale * (integer - zero_point)``.

    Attributes:
        dtype: Integer type.
        symmetric: Whether the range is symmetric around zero. With ``s8`` the zero point is 0, with ``u8`` it is 128.
        granularity: One scale for the tensor, one per output channel, or one per group of values.
    """

    dtype: QuantizedType
    symmetric: bool = False
    granularity: Granularity = Granularity.PER_TENSOR

    def __str__(self) -> str:
        """Short form, as in ``u8 asymmetric per_tensor``; :meth:`parse` reads it."""
        return f"{self.dtype} {'symmetric' if self.symmetric else 'asymmetric'} {self.granularity}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` wrote.

        Raises:
            ValueError: ``text`` is not of the form ``dtype symmetry granularity``.
        """
        parts = text.split()
        if len(parts) != 3 or parts[1] not in ("symmetric", "asymmetric"):
            raise ValueError(f"A tensor scheme must read like 'u8 asymmetric per_tensor', but got {text!r}")
        return cls(
            dtype=QuantizedType(parts[0]), symmetric=parts[1] == "symmetric", granularity=Granularity.parse(parts[2])
        )


class CalibrationMethod(StrEnum):
    """The families of algorithms that turn a tensor's statistics into the range that is quantized."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    KL = "kl"
    MSE = "mse"
    LEAST_ERROR = "least_error"


@dataclass(frozen=True)
class CalibrationAlgorithm:
    """One way to choose a tensor's range from its statistics.

    Attributes:
        method: The family.
        percentile: Only for ``percentile``: the share of values, in percent, that the range covers.
    """

    method: CalibrationMethod
    percentile: float | None = None

    def __post_init__(self) -> None:
        if (self.method is CalibrationMethod.PERCENTILE) != (self.percentile is not None):
            raise ValueError(f"A percentile belongs to method 'percentile' and to no other, but got {self!r}")
        if self.percentile is not None and not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"`50 < percentile <= 100` must hold, but got {self.percentile}")

    def __str__(self) -> str:
        """Short form, ``minmax`` or ``percentile:99.99``; :meth:`parse` reads it."""
        return f"{self.method}:{self.percentile:g}" if self.percentile is not None else str(self.method)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` wrote.

        Raises:
            ValueError: The method is unknown, or the percentile is missing or out of range.
        """
        name, _, percentile = text.partition(":")
        return cls(CalibrationMethod(name), float(percentile) if percentile else None)


MINMAX = CalibrationAlgorithm(CalibrationMethod.MINMAX)
PERCENTILE = CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.99)
KL = CalibrationAlgorithm(CalibrationMethod.KL)
MSE = CalibrationAlgorithm(CalibrationMethod.MSE)
LEAST_ERROR = CalibrationAlgorithm(CalibrationMethod.LEAST_ERROR)

CALIBRATION_ALGORITHMS = (
    # Together with the preferred recipe, it keeps most of the logits of two CNNs (docs/recipes.md).
    LEAST_ERROR,
    KL,
    MINMAX,
    *(CalibrationAlgorithm(CalibrationMethod.PERCENTILE, percent) for percent in (99.999, 99.99, 99.9)),
    MSE,
)
"""Calibration algorithms that adapters offer, preferred ones first."""


@dataclass(frozen=True, kw_only=True)
class OpConfig:
    """One op's choice.

    Attributes:
        precision: How the op computes.
        activation: For int8, how the tensors that the op reads are quantized. A tensor has one scheme: the first int8
            op in graph order that reads it decides, and where only fp32 ops read it, the int8 op that wrote it.
        weight: For quantized ops with constant weights, how these are quantized.
        calibration: For static int8, the algorithm that chooses the ranges of the tensors that the op reads.
    """

    precision: Precision = Precision.FP32
    activation: TensorScheme | None = None
    weight: TensorScheme | None = None
    calibration: CalibrationAlgorithm | None = None

    @property
    def is_fp32(self) -> bool:
        """Whether the op stays as it is."""
        return self.precision is Precision.FP32 and self == FP32

    def __str__(self) -> str:
        parts = [str(self.precision)]
        if self.activation is not None:
            parts.append(f"activation {self.activation}")
        if self.weight is not None:
            parts.append(f"weight {self.weight}")
        if self.calibration is not None:
            parts.append(str(self.calibration))
        return ", ".join(parts)

    def to_json(self) -> dict[str, str]:
        """The fields that are set, as strings."""
        return dict(self._json)

    @cached_property
    def _json(self) -> Mapping[str, str]:
        values = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: str(value) for name, value in values if value is not None}

    @cached_property
    def _around_names(self) -> tuple[str, str]:
        """An entry of a config as canonical JSON: what comes before the names of its ops, and what comes after."""
        key = '"names":['
        before, after = canonical_json({**self._json, "names": []}).split(key, 1)
        return before + key, after

    @staticmethod
    def from_json(data: Mapping[str, str]) -> OpConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: A value is not one of those known.
            TypeError: A key is unknown.
        """
        return _read_choice(*data.items())


@lru_cache(maxsize=2**12)
def _read_choice(*items: tuple[str, str]) -> OpConfig:
    """The choice that these names and values are; one object for all that are alike, as a history has them often."""
    readers: dict[str, Callable[[str], Any]] = {
        "precision": Precision,
        "activation": TensorScheme.parse,
        "weight": TensorScheme.parse,
        "calibration": CalibrationAlgorithm.parse,
    }
    require_known((name for name, _ in items), readers, "an op's choice")
    values: dict[str, Any] = {name: readers[name](value) for name, value in items}
    return OpConfig(**values)


_quoted: Callable[[str], str] = lru_cache(maxsize=2**16)(json.dumps)
"""A name of an op as JSON."""

FP32 = OpConfig()
"""The op stays as it is."""


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """A choice for every op of a model, and for the graph.

    Attributes:
        ops: The choice of each op, by node name. An op that is not named stays fp32.
        recipe: The choices for the graph. Without a quantized op there is nothing that they could change, so that
            they are the default then; so is ``weight_only`` without an op that is stored so.
        prepared: Without a quantized op: whether this is the model that the adapter prepared, and not the user's own as
            it was given. Candidates with a quantized op are made of the prepared one anyway.
        runtime: The runtime that executes the model, in a run over several of them, by the name of its adapter. None in
            a run of one framework, and for the user's model, which is measured on the baseline's runtime alone.
        trained: Whether the weights were trained on these very grids, see :class:`autotune.adapter.Trainable`. Scales
            of weights then come from their largest magnitude, whatever the calibration algorithm.
    """

    ops: Mapping[str, OpConfig] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    prepared: bool = False
    runtime: str | None = None
    trained: bool = False

    def __post_init__(self) -> None:
        # fp32 is what an op without an entry is, so that equal configs compare and hash equal.
        kept = {name: choice for name, choice in sorted(self.ops.items()) if not choice.is_fp32}
        object.__setattr__(self, "ops", kept)
        object.__setattr__(self, "prepared", self.prepared and not kept)
        object.__setattr__(self, "trained", self.trained and bool(kept))
        if self.is_fp32:
            object.__setattr__(self, "runtime", None)
        if not kept:
            object.__setattr__(self, "recipe", Recipe())
        elif self.recipe.weight_only is not WeightOnly.RTN and not self.stores_weights_only:
            object.__setattr__(self, "recipe", dataclasses.replace(self.recipe, weight_only=WeightOnly.RTN))

    def __getitem__(self, op: str) -> OpConfig:
        return self.ops.get(op, FP32)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        # The ops of a model take thousands of characters: `diff` and `to_json` show them.
        counts = ", ".join(f"{count} {precision}" for precision, count in self.precisions().most_common())
        return f"<{type(self).__name__} {self.fingerprint}: {counts or 'fp32'}>"

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on nothing but the choices; the same on every host and in every run."""
        # The canonical JSON of `to_json`, of parts that configs share: a history of thousands needs those of all.
        entries = []
        for choice, names in self._choices():
            before, after = choice._around_names
            entries.append(f"{before}{','.join(map(_quoted, names))}{after}")
        others = canonical_json(self._whole_json())
        text = f'{{"ops":[{",".join(entries)}]{"," if len(others) > 2 else ""}{others[1:]}'
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_fp32(self) -> bool:
        """Whether this is the user's model as it was given."""
        return not self.ops and not self.prepared

    @property
    def stores_weights_only(self) -> bool:
        """Whether any op is quantized in how its weights are stored alone."""
        return any(choice.precision in WEIGHT_ONLY for choice in self.ops.values())

    def replace(self, ops: Mapping[str, OpConfig]) -> Self:
        """This config with other choices for the named ops."""
        return dataclasses.replace(self, ops={**self.ops, **ops})

    def precisions(self) -> Counter[Precision]:
        """How many ops compute in which precision; fp32 ops are not counted, since they may go unnamed."""
        return Counter(choice.precision for choice in self.ops.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads; ops that differ in nothing share one entry."""
        return {"ops": [{"names": names, **choice._json} for choice, names in self._choices()], **self._whole_json()}

    def _choices(self) -> Iterable[tuple[OpConfig, list[str]]]:
        """Each choice, and the ops that make it."""
        choices: dict[tuple[str, str], tuple[OpConfig, list[str]]] = {}
        for name, choice in self.ops.items():
            key = choice._around_names  # hashed in less time than the choice
            known = choices.get(key)
            if known is None:
                known = choices[key] = (choice, [])
            known[1].append(name)
        return choices.values()

    def _whole_json(self) -> dict[str, Any]:
        """All but the ops. Its keys come after ``ops`` in the alphabet, as the fingerprint needs it."""
        data: dict[str, Any] = {}
        if recipe := self.recipe.to_json():
            data["recipe"] = recipe
        if self.prepared:
            data["prepared"] = True
        if self.runtime is not None:
            data["runtime"] = self.runtime
        if self.trained:
            data["trained"] = True
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: A value is not one of those known.
            TypeError: A key is unknown.
        """
        require_known(data, ("ops", "recipe", "prepared", "runtime", "trained"), "a config")
        ops = {}
        for entry in data["ops"]:
            choice = _read_choice(*(item for item in entry.items() if item[0] != "names"))
            for name in entry["names"]:
                ops[name] = choice
        return cls(
            ops=ops,
            recipe=Recipe.from_json(data.get("recipe", {})),
            prepared=data.get("prepared", False),
            runtime=data.get("runtime"),
            trained=data.get("trained", False),
        )

    def diff(self, other: QuantizationConfig) -> str:
        """The changes from this config to ``other``: a line for each op or recipe field, empty when they are equal."""
        whole = (("runtime", self.runtime, other.runtime), ("trained", self.trained, other.trained))
        lines = [f"{name}: {before} -> {after}" for name, before, after in whole if before != after]
        lines += [
            f"{name}: {self[name]} -> {other[name]}"
            for name in sorted({*self.ops, *other.ops})
            if self[name] != other[name]
        ]
        named = {**self.recipe.options, **other.recipe.options}
        for name in recipe_names(sorted(named)):
            if name in named:
                before, after = (config.recipe.options.get(name, "default") for config in (self, other))
            else:
                before, after = self.recipe[name], other.recipe[name]
            if before != after:
                lines.append(f"recipe.{name}: {before} -> {after}")
        return "\n".join(lines)
