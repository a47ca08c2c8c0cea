"""Any YAML that looks like an experiment is read, or refused with a message; nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autotune.experiment.schema
from autotune.errors import AutotuneError
from autotune.experiment.loading import load_experiment

SCHEMA: dict[str, Any] = json.loads(
    Path(autotune.experiment.schema.__file__).with_name("schema.json").read_text(encoding="utf-8")
)
_DEPTH = 6

_MARKS = tuple("[]{}:&*!?#,-|>%@`'\"\n\t \0\x85a0~<")

_ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([10**400, -(10**30), "\0", "~nosuchuser/x", "a" * 5000, "a:b", "<fill in>", ".", ""]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=6), st.none(), max_size=2),
)


def _values(schema: Any, depth: int = 0) -> st.SearchStrategy[Any]:  # noqa: PLR0911  one for each kind of schema
    """Values that a schema allows, as far as it says so in words that this function knows."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return _ODD
    if "$ref" in schema:
        return st.deferred(lambda: _values(SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], depth + 1))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([_values(each, depth + 1) for each in choices])
    kind = schema.get("type")
    if kind == "object":
        return _sections(schema, depth)
    if kind == "array":
        return st.lists(_values(schema.get("items", {}), depth + 1), max_size=3)
    plain = {
        "integer": st.integers(-2, 300),
        "number": st.floats(-1, 300),
        "boolean": st.booleans(),
        "string": st.text("ab/:._", max_size=6),
        "null": st.none(),
    }
    return plain.get(str(kind), _ODD)


def _sections(schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    """Sections with all keys that are required and some of the others; now and then a value is any other."""
    required = set(schema.get("required", ()))
    fields = {
        name: st.one_of(*[_values(each, depth + 1)] * 9, _ODD) for name, each in schema.get("properties", {}).items()
    }
    return st.fixed_dictionaries(
        {name: each for name, each in fields.items() if name in required},
        optional={name: each for name, each in fields.items() if name not in required},
    )


def _is_told(path: Path) -> None:
    with contextlib.suppress(AutotuneError):
        load_experiment(path)


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(experiment=_values(SCHEMA))
def test_what_the_schema_suggests_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, experiment: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "suggested.yaml"
    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    _is_told(path)


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    experiment=_values(SCHEMA),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(list("[]{}:&*!?#,-|>%@`'\"\n\t \0\x85a0~<"))), max_size=6
    ),
)
def test_text_with_any_changes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, experiment: object, changes: list[tuple[float, str]]
) -> None:
    text = yaml.safe_dump(experiment)
    for share, character in changes:
        at = int(share * len(text))
        text = text[:at] + character + text[at:]
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_text(text, encoding="utf-8")
    _is_told(path)


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    _is_told(path)
