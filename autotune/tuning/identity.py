"""Identity of a history: model, data and settings, and the reasons for which another run may not go on with it."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any

from autotune.errors import WorkspaceError

FRAMEWORK, HOST, FUNCTION, EXECUTION = "framework", "host", "eval_fn", "execution"
CALIBRATION_DATA = "calibration data"
"""Key of the identity: a hash of what the data loader yields."""

EVALUATION_DATA = "evaluation data"
"""Name under which a history keeps a hash of the labelled data. The evaluation of fp32 reads them; to read them for the
identity as well would take as long again."""

LATER = frozenset({FRAMEWORK, FUNCTION})
"""Keys that earlier versions did not store; a history without one goes on with any."""

_DEPENDENT = frozenset({"model", "space", HOST})
"""Parts of an identity that differ wherever the framework does, so that a message need not name them beside it."""

_SHUFFLES = "a data loader that shuffles: fix its order (`shuffle=False` or a seeded sampler)"

_CAUSES: Mapping[tuple[str, ...], str] = {
    (CALIBRATION_DATA,): f"The likely cause is another `sampling_size`, or {_SHUFFLES}",
    (EVALUATION_DATA,): f"Figures on other data are not compared. The cause may be {_SHUFFLES}",
    ("space",): "The likely cause is another version, which offers other choices: `autotune report` still reads it",
    ("objective",): "The figure that counts now was not measured there",
    (HOST,): "Latency is compared between machines alone that have one CPU, features, cores, system and package "
    "versions",
    (FUNCTION,): "The function that scores was changed, and scores of two functions are not compared",
}
"""The likely cause of a difference, by the keys that differ."""


_OTHER_ORDER = "The runtimes are the same in another order, which counts: name them in the order of that run"


def difference(stored: Mapping[str, str], identity: Mapping[str, str], ignored: Set[str] = frozenset()) -> str | None:
    """The difference between a history and a run, and its likely cause; None where the run may go on with it.

    Args:
        stored: The identity of the history.
        identity: The one of the run.
        ignored: Keys that may differ.
    """
    missing = LATER - set(stored)
    keys = [key for key in {**identity, **stored} if key not in ignored and key not in missing]
    differing = [key for key in keys if identity.get(key) != stored.get(key)]
    if FRAMEWORK in differing:
        differing = [key for key in differing if key not in _DEPENDENT]
    if not differing:
        return None
    lines = "; ".join(f"{key}: {stored.get(key)} there, {identity.get(key)} here" for key in differing)
    cause = _CAUSES.get(tuple(differing))
    if differing == [FRAMEWORK] and _runtimes(stored) == _runtimes(identity):
        cause = _OTHER_ORDER
    return f"({lines})." + (f" {cause}." if cause else "")


def elsewhere(stored: Mapping[str, str], identity: Mapping[str, str]) -> set[str]:
    """The keys by which a worker measures another latency than the run: its host, and on how many threads models run.

    Args:
        stored: The identity of the history.
        identity: The one of the worker.
    """
    before, here = (each.get(EXECUTION, "").partition(" threads") for each in (stored, identity))
    keys = {HOST} if stored.get(HOST) != identity.get(HOST) else set()
    return keys | ({EXECUTION} if before != here and before[1:] == here[1:] else set())


def _runtimes(identity: Mapping[str, str]) -> list[str]:
    """The names of an identity's runtimes, without their order."""
    return sorted(identity.get(FRAMEWORK, "").split(", "))


def identity_of(function: Callable[..., Any]) -> str:
    """Module, name and a hash of the source of a user's function; of a callable object, those of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    target: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{target.__module__}.{target.__qualname__} {hashlib.sha256(_source(target)).hexdigest()[:16]}"


def _source(target: Any) -> bytes:
    """The source; where there is none, as in an interactive session, what the interpreter made of it."""
    try:
        return inspect.getsource(target).encode()
    except (OSError, TypeError):
        code = getattr(target, "__code__", None)
        return b"" if code is None else bytes(code.co_code)


def require_same(
    history: str, stored: Mapping[str, str], identity: Mapping[str, str], ignored: Set[str] = frozenset()
) -> None:
    """See that a history is of the run that wants to go on with it.

    Args:
        history: Its name.
        stored: The identity in it.
        identity: The one of the run.
        ignored: Keys that may differ.

    Raises:
        WorkspaceError: It is of another run.
    """
    found = difference(stored, identity, ignored)
    if found is not None:
        raise WorkspaceError(
            f"{history} holds trials of another run {found} Choose another workspace, or delete that one: "
            "`--fresh` begins anew in its place"
        )
