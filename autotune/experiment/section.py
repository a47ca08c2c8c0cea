"""The base class of all sections of an experiment file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError

from autotune.config import CalibrationAlgorithm, CalibrationMethod, Granularity
from autotune.runtimes.names import broken_rule_of

_Value = TypeVar("_Value")


def broken_rule(text: str) -> PydanticCustomError:
    """An error of a validator of ours, which says by itself what must hold and what was given."""
    return PydanticCustomError("broken_rule", "{text}", {"text": text})


class Section(BaseModel):
    """A part of an experiment file: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Choice(Section):
    """A section that holds one of its keys, which says what kind of thing it is."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    def chosen(self) -> Any:
        """The value of the one key."""
        return only(self, tuple(type(self).model_fields))


def only(section: Section, names: tuple[str, ...]) -> Any:
    """The one of these fields that is set.

    Raises:
        PydanticCustomError: None of them is set, or several are.
    """
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise broken_rule(
            f"must have one of the keys {', '.join(names)}, but has {' and '.join(given) or 'none of them'}"
        )
    return getattr(section, given[0])


_LONGEST_PATH = 4095


def _beside_experiment(path: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory")
    if len(str(path)) > _LONGEST_PATH or "\0" in str(path):
        raise broken_rule(f"must be a path of 1 to {_LONGEST_PATH} characters, but has {len(str(path))}, or a NUL")
    try:
        path = path.expanduser()
    except RuntimeError:
        raise broken_rule(f"must name a user that this system knows, but got {path.parts[0]!r}") from None
    return path if directory is None else Path(directory) / path


FilePath = Annotated[Path, AfterValidator(_beside_experiment)]
"""A path; a relative one starts at the experiment file's own directory."""


def _is_reference(text: str) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise broken_rule(f"must read like 'package.module:function', but got {text!r}")
    return text


Reference = Annotated[str, AfterValidator(_is_reference)]
"""A Python callable, as ``module:function``."""


def _as_tuple(value: object) -> object:
    return value if isinstance(value, list) or value is None else [value]


# The file is checked as strict JSON, where an enum is its text and a tuple a list. A value that a validator returns
# counts as Python, where strict would mean the enum and the tuple themselves.
_Lax = Field(strict=False)


class _ItemOrArray:
    """Says in the JSON Schema what the validator takes: an item or an array of them."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


OneOrMore = Annotated[tuple[Annotated[_Value, _Lax], ...], _Lax, BeforeValidator(_as_tuple), _ItemOrArray()]
"""A list of values; a single one may be written without brackets."""


_BYTE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _as_bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)", value.strip())
    if found is None or found.group(2).upper() not in _BYTE_UNITS:
        raise broken_rule(f"must be a number of bytes, or read like 500 MB or 4 GiB, but got {value!r}")
    number = float(found.group(1)) * _BYTE_UNITS[found.group(2).upper()]
    return int(number) if number < 2**63 else 2**63


Bytes = Annotated[
    int,
    BeforeValidator(_as_bytes),
    Field(gt=0, lt=2**63),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
"""A number of bytes; text may name a unit, as in ``4 GiB``."""


def _are_runtimes(names: tuple[str, ...]) -> tuple[str, ...]:
    if rule := broken_rule_of(names):
        raise broken_rule(rule)
    return names


Runtimes = Annotated[tuple[str, ...], _Lax, AfterValidator(_are_runtimes)]
"""Names of adapters, each once."""


def _as_pair(value: object) -> object:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _positive(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise broken_rule(f"must be positive, but got {list(size)}")
    return size


Size = Annotated[
    tuple[int, int],
    _Lax,
    BeforeValidator(_as_pair),
    AfterValidator(_positive),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {
                    "type": "array",
                    "items": {"type": "integer", "exclusiveMinimum": 0},
                    "minItems": 2,
                    "maxItems": 2,
                },
            ]
        }
    ),
]
"""Height and width in pixels; one number for both."""


def _is_granularity(text: str) -> str:
    try:
        return str(Granularity.parse(text))
    except ValueError as error:
        raise broken_rule(str(error)) from None


GranularityText = Annotated[
    str,
    AfterValidator(_is_granularity),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [str(each) for each in Granularity.PLAIN], "type": "string"},
                {"pattern": "^per_group:[1-9][0-9]*$", "type": "string"},
            ]
        }
    ),
]
"""A granularity as users write it."""


def _is_algorithm(values: tuple[str, ...]) -> tuple[str, ...]:
    for text in values:
        if text in [str(method) for method in CalibrationMethod]:
            continue
        try:
            CalibrationAlgorithm.parse(text)
        except ValueError:
            methods = ", ".join(CalibrationMethod)
            raise broken_rule(
                f"must be one of {methods}, or a percentile such as percentile:99.99, but got {text!r}"
            ) from None
    return values


Algorithms = Annotated[OneOrMore[str], AfterValidator(_is_algorithm)]
"""Calibration algorithms as users write them."""
