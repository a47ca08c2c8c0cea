from __future__ import annotations

import functools

import pytest

from autotune.tuning.identity import difference, identity_of


def score(model: object) -> float:
    """Scores one."""
    return 1.0 if model else 0.0


def make(text: str) -> object:
    names: dict[str, object] = {"__name__": "written"}
    exec(text, names)
    return names["score"]


class Scorer:
    def __call__(self, model: object) -> float:
        return float(bool(model))


def test_a_function_is_its_module_name_and_source() -> None:
    found = identity_of(score)
    assert found.startswith(f"{__name__}.score ")
    assert identity_of(functools.partial(score, 1)) == found
    assert identity_of(functools.wraps(score)(lambda model: 0.5 if model else 0.0)) == found
    assert identity_of(Scorer()) == identity_of(Scorer())
    assert ".Scorer " in identity_of(Scorer())


def test_without_a_source_what_was_compiled_tells_functions_apart() -> None:
    first, same, other = (make(f"def score(model): return {body}") for body in ("model(1)", "model(1)", "len(model)"))
    assert identity_of(first) == identity_of(same)  # type: ignore[arg-type]  # functions, made by exec
    assert identity_of(first) != identity_of(other)  # type: ignore[arg-type]


def test_what_earlier_versions_did_not_store_may_be_anything() -> None:
    assert difference({"model": "a"}, {"model": "a", "eval_fn": "f", "framework": "numpy"}) is None
    assert difference({"model": "a"}, {"model": "b"}) == "(model: a there, b here)."


@pytest.mark.parametrize(
    ("key", "cause"), [("calibration data", "shuffles"), ("host", "one CPU"), ("eval_fn", "scores")]
)
def test_the_likely_cause_is_named(key: str, cause: str) -> None:
    assert cause in str(difference({key: "1"}, {key: "2"}))
    assert cause not in str(difference({key: "1", "model": "1"}, {key: "2", "model": "2"}))
