"""Every argument of another type is refused by its name, with the value, before any other rule reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune import Criterion, Tuner
from autotune.adapters import get_adapter
from autotune.arguments import check_fields, kind_of, require, shown
from autotune.errors import CriterionError, InputError
from autotune.evaluation import CacheState, IsolationOptions, LatencyOptions, create_metric
from autotune.experiment import load_experiment
from autotune.restriction import OpRestriction, SchemeRestriction, SpaceRestriction
from autotune.results.summary import read_summary
from autotune.strategies import create_strategy

_CHECKED = (Tuner, Criterion, LatencyOptions, IsolationOptions, SpaceRestriction, OpRestriction, SchemeRestriction)
_ALIASES = {"latency_cache": "cache"}
"""Names under which a message knows an option of another name."""


class _Stranger:
    """An object that no option takes, and of which no operator is defined."""


def _fields() -> list[tuple[type, str]]:
    return [(cls, field.name) for cls in _CHECKED for field in dataclasses.fields(cls)]


@pytest.mark.parametrize(("cls", "name"), _fields(), ids=lambda each: getattr(each, "__name__", each))
def test_each_option_refuses_an_object_of_another_type_by_its_name(cls: Callable[..., Any], name: str) -> None:
    with pytest.raises(InputError, match=_ALIASES.get(name, name)):
        cls(**{name: _Stranger()})


@pytest.mark.parametrize(("cls", "name"), _fields(), ids=lambda each: getattr(each, "__name__", each))
def test_each_option_takes_its_own_default(cls: Callable[..., Any], name: str) -> None:
    default = getattr(cls(), name)
    assert getattr(cls(**{name: default}), name) == default


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_trials": "5"}, "`max_trials` must be a whole number or None, but got '5', a str"),
        ({"max_trials": 2.5}, "`max_trials` must be a whole number or None, but got 2.5, a float"),
        ({"max_trials": True}, "`max_trials` must be a whole number or None, but got True, a bool"),
        ({"threads": None}, "`threads` must be a whole number, but got None"),
        ({"timeout_s": "60"}, "`timeout_s` must be a number or None, but got '60', a str"),
        ({"fresh": "no"}, "`fresh` must be True or False, but got 'no', a str"),
        ({"batch_axis": {"x": "0"}}, "`batch_axis` must be None, a whole number or a dict by name, each a whole"),
        ({"criteria": {"top5": 0.01}}, "`criteria` must be a dict by name, each a Criterion"),
        ({"criterion": 0.01}, r"as Criterion\(relative=0.01\), but got 0.01"),
        ({"constraints": {"speedup": 2}}, r"but got {'speedup': 2}, a dict. Write it as Constraints\(speedup=2\)"),
        ({"restriction": {}}, "with op_type, op_name, recipe, excluded, but got {}, a dict"),
        ({"strategy": {"name": "bayesian"}}, "Known names are: auto"),
        ({"strategy": "bayesain"}, "'bayesian'"),
        ({"strategy": "random", "strategy_options": {"foo": 1}}, "'foo'"),
        ({"runtimes": 5}, "`runtimes` must list one adapter or more"),
    ],
)
def test_a_message_names_rule_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tuner(**options)


def test_numbers_of_numpy_become_pythons_own() -> None:
    tuner = Tuner(max_trials=np.int64(3), timeout_s=np.float32(2.5))  # type: ignore[arg-type]  # as users pass them
    assert (type(tuner.max_trials), tuner.max_trials) == (int, 3)
    assert (type(tuner.timeout_s), tuner.timeout_s) == (float, 2.5)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (Criterion, {"relative": "0.01"}, "`relative` must be a number or None, but got '0.01'"),
        (Criterion, {"confidence": "0.95"}, "`confidence` must be a number"),
        (get_adapter, (5,), "must be named, as one of onnxruntime"),
        (get_adapter, (["onnxruntime"],), "`runtimes` takes several names"),
        (load_experiment, (5,), "`path` must be a path or text, but got 5, an int"),
        (
            load_experiment,
            ("a.yaml", "tuning.random_seed=1"),
            "`overrides` must be a list, each text",
        ),
        (
            load_experiment,
            ("a.yaml", (), "mine"),
            "`trust` must be a list",
        ),
        (read_summary, (5,), "`storage` must be a path or text"),
        (read_summary, ("nowhere",), "nowhere holds no history"),
        (create_metric, (5,), "There is no metric 5"),
        (create_strategy, (None,), "There is no strategy None"),
        (OpRestriction, {"precision": "fp32"}, "`precision` must be None or a list, each one of fp32"),
    ],
)
def test_public_functions_refuse_what_they_do_not_read(
    call: Callable[..., object], arguments: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(**arguments) if isinstance(arguments, dict) else call(*arguments)


def test_text_is_as_good_as_the_member_of_an_enumeration() -> None:
    assert LatencyOptions(cache="cold").cache_state is CacheState.COLD
    assert OpRestriction(precision=("fp32",)).precision == ("fp32",)  # type: ignore[arg-type]  # as users write it


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, 3, 3.0),
        (float, 3, "3"),
        (bool, True, 1),
        (str | None, None, 3),
        (Path | str, Path("a"), b"a"),
        (Sequence[str], ["a"], "a"),
        (Sequence[str], (), [1]),
        (Mapping[str, float], {"a": 1}, {"a": "1"}),
        (Mapping[str, float], {}, {1: 1.0}),
        (tuple[int, ...] | None, (1,), (1.5,)),
        (frozenset[str], frozenset({"a"}), ["a"]),
        (Callable[[int], int], abs, 3),
        (CacheState, "warm", "hot"),
    ],
)
def test_what_each_kind_of_annotation_takes(hint: Any, good: object, bad: object) -> None:
    require("option", good, hint, InputError)
    with pytest.raises(InputError, match="`option` must be"):
        require("option", bad, hint, InputError)


def test_the_error_is_of_the_class_that_is_asked_for() -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        count: int

        def __post_init__(self) -> None:
            check_fields(self, CriterionError)

    with pytest.raises(CriterionError, match="`count`"):
        Options(count="3")  # type: ignore[arg-type]  # the point


def test_long_values_are_told_by_their_kind() -> None:
    assert shown([0] * 100) == "a list"
    assert shown(None) == "None"
    assert shown(3) == "3, an int"
    assert kind_of(_Stranger) == "the class _Stranger: give an object of it, as `_Stranger()` makes one"
