"""Checks what users give against the types that are declared for it, with one message for all of them."""

from __future__ import annotations

import dataclasses
import enum
import numbers
import operator
import os
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from autotune.errors import AutotuneError

_LONGEST = 80
"""Characters of the longest value that a message shows."""

_NAMES: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    NoneType: "None",
}
"""Types in words."""

_NUMBERS: Mapping[Any, type] = {int: numbers.Integral, float: numbers.Real}
_PROTOCOLS: Mapping[Any, type] = {Path: os.PathLike}
_LISTS: Mapping[Any, type] = {Sequence: Sequence, tuple: Sequence, frozenset: Set}


def check_fields(options: Any, error: type[AutotuneError], *, skipped: Collection[str] = ()) -> None:
    """See that each field of a frozen dataclass holds what its annotation says, before any rule reads it.

    Numbers of NumPy become Python's. Nothing else is converted: text is no number, and True is none either.

    Args:
        options: The dataclass, in its ``__post_init__``.
        error: Type of the error to raise.
        skipped: Names of fields that have a rule of their own for every value.

    Raises:
        AutotuneError: A field holds something else. ``error`` is the class that is raised.
    """
    hints = _hints(type(options))
    for field in dataclasses.fields(options):
        if field.name not in skipped:
            value = getattr(options, field.name)
            require(field.name, value, hints[field.name], error)
            if isinstance(value, numbers.Number) and not isinstance(value, (int, float)):
                object.__setattr__(options, field.name, _plain(value))


def require(name: str, value: object, hint: Any, error: type[AutotuneError]) -> None:
    """See that one argument is what its annotation says.

    Args:
        name: Name of the argument.
        value: The value that was given.
        hint: A type, a union of types, or a list or dict of them.
        error: Type of the error to raise.

    Raises:
        AutotuneError: It is something else. ``error`` is the class that is raised.
    """
    if not _accepts(hint, value):
        raise error(f"`{name}` must be {_listed(_words(hint))}, but got {shown(value)}{_written(hint, value)}")


def _written(hint: Any, value: object) -> str:
    """How the object that is wanted is written, where a dict has its fields."""
    for kind in _members(hint):
        if not isinstance(value, Mapping) or not value or not dataclasses.is_dataclass(kind):
            continue
        if {*value} <= {field.name for field in dataclasses.fields(kind)}:
            fields = ", ".join(f"{key}={each!r}" for key, each in value.items())
            return f". Write it as {getattr(kind, '__name__', kind)}({fields})"
    return ""


def names_a_folder(name: object) -> bool:
    """Whether a name of the user's can be the name of a folder on any system: letters, digits, ``.``, ``_``, ``-``."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", name) is not None


def shown(value: object) -> str:
    """A value and the kind of thing that it is, as an error message shows it: ``'5', a str``."""
    if value is None:
        return "None"
    text = repr(value)
    kind = kind_of(value)
    return kind if len(text) > _LONGEST or text.startswith("<") else f"{text}, {kind}"


def kind_of(value: object) -> str:
    """The kind of thing that a value is, with an article; of a class, what to do with it."""
    if isinstance(value, type):
        return f"the class {value.__name__}: give an object of it, as `{value.__name__}()` makes one"
    return _with_article(type(value).__name__)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _hints(cls: type) -> dict[str, Any]:
    # Optuna is not imported for its name: the field that mentions it has a rule of its own.
    return typing.get_type_hints(cls, localns={"BaseSampler": object})


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)


def _accepts(hint: Any, value: object) -> bool:
    return any(_accepts_one(each, value) for each in _members(hint))


def _accepts_one(hint: Any, value: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _accepts(arguments[0], key) and _accepts(arguments[1], each) for key, each in value.items()
        )
    if origin in _LISTS:
        return (
            isinstance(value, (Sequence, Set))
            and isinstance(value, _LISTS[origin])
            and not isinstance(value, str)
            and all(_accepts(arguments[0], each) for each in value)
        )
    if isinstance(hint, enum.EnumMeta):
        return value in list(hint)  # its text is as good as a member, which StrEnum makes equal
    return hint is Any or isinstance(value, _PROTOCOLS.get(hint, origin or hint))


def _words(hint: Any) -> list[str]:
    """The kinds of value that are taken; beside a kind with items None comes first, so as not to read like an item."""
    words = list(dict.fromkeys(_word(each) for each in _members(hint)))
    return sorted(words, key=lambda word: word != "None") if any("each" in word for word in words) else words


def _word(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    if isinstance(hint, enum.EnumMeta):
        return f"one of {', '.join(map(str, hint))}"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Callable:
        return "callable"
    if origin is Mapping:
        return f"a dict by name{_each(arguments[1])}"
    if origin in _LISTS:
        return f"a list{_each(arguments[0])}"
    return _with_article((origin or hint).__name__)


def _each(hint: Any) -> str:
    return "" if hint is Any else f", each {_listed(_words(hint))}"


def _listed(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plain(value: Any) -> int | float:
    """A number of NumPy or another library as Python's own."""
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)
