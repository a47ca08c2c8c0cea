"""Objects that other processes get a copy of, checked before they are sent."""

from __future__ import annotations

from collections.abc import Mapping

import cloudpickle

from autotune.errors import AutotuneError


def pickled(value: object, parts: Mapping[str, object], *, why: str, way_out: str, error: type[AutotuneError]) -> bytes:
    """A value as bytes that another process reads, closures and functions of a notebook included.

    Args:
        value: The object to send.
        parts: Parts of the object, by what a user calls them; the first that cannot be sent is named.
        why: Purpose of the copy, as the beginning of a sentence.
        way_out: Advice for going on without a copy, as the end of a sentence.
        error: Type of the error to raise.

    Raises:
        AutotuneError: A part of the object belongs to this process. ``error`` is the class that is raised.
    """
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as cause:
        name, reason = _culprit(parts) or ("what is sent", cause)
        raise error(
            f"{why}, so that {name} must be picklable, but it is not ({type(reason).__name__}: {reason}). Leave out of "
            "it what belongs to one process (sessions, open files, locks, connections) and make that anew where it is "
            f"missing, with `__getstate__` or `__reduce__`, or {way_out}"
        ) from cause


def _culprit(parts: Mapping[str, object]) -> tuple[str, Exception] | None:
    for name, part in parts.items():
        try:
            cloudpickle.dumps(part)
        except Exception as cause:
            return f"{name} (a {type(part).__name__})", cause
    return None
