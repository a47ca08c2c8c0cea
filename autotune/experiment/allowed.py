"""Finds the keys that a section of an experiment file may have."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


def allowed_keys(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of the section at ``loc``, or none where that is no section.

    Args:
        model: The section that ``loc`` starts at.
        loc: Keys and list positions, as pydantic reports them.
    """
    annotation: Any = model
    for part in loc:
        section = _section(annotation)
        if section is not None:
            if part not in section.model_fields:
                return []
            annotation = section.model_fields[str(part)].annotation
        else:
            annotation = _item(annotation)
    section = _section(annotation)
    return [] if section is None else list(section.model_fields)


def _variants(annotation: Any) -> list[Any]:
    """The types that an annotation stands for, without None and without what validators add."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _variants(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [found for arg in typing.get_args(annotation) if arg is not type(None) for found in _variants(arg)]
    return [annotation]


def _section(annotation: Any) -> type[BaseModel] | None:
    for variant in _variants(annotation):
        if isinstance(variant, type) and issubclass(variant, BaseModel):
            return variant
    return None


def _item(annotation: Any) -> Any:
    """The type of a list's items or a dict's values."""
    for variant in _variants(annotation):
        args = typing.get_args(variant)
        if typing.get_origin(variant) is dict:
            return args[1]
        if typing.get_origin(variant) in (tuple, list):
            return args[0]
    return None
