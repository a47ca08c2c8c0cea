"""Whether what a workspace holds was measured on the same model, data and host, and what may be why it was not."""

from __future__ import annotations

from collections.abc import Mapping

CALIBRATION_DATA = "calibration data"
"""Key of the identity: a hash of what the data loader yields."""

_FRAMEWORK = "framework"
_DEPENDENT = frozenset({"model", "space", "host"})
"""Parts of an identity that differ wherever the framework does, so that a message need not name them beside it."""

_CAUSES: dict[tuple[str, ...], str] = {
    (CALIBRATION_DATA,): " The likely cause is a data loader that shuffles: fix its order (`shuffle=False` or a seeded "
    "sampler).",
    ("space",): " The likely cause is another version, which offers other choices: `autotune report` still reads it.",
}
_OTHER_ORDER = " The runtimes are the same in another order, which counts: name them in the order of that run."


def difference_from(stored: Mapping[str, str], identity: Mapping[str, str]) -> str | None:
    """The parts in which a run is another one than that of the workspace, and the likely cause.

    Args:
        stored: The identity that the workspace holds.
        identity: The identity of the run that is about to begin.

    Returns:
        Text that follows "another run"; None where both are the same run.
    """
    if _FRAMEWORK in identity:
        stored = {_FRAMEWORK: identity[_FRAMEWORK], **stored}  # earlier versions did not store it
    differing = [key for key in {**identity, **stored} if identity.get(key) != stored.get(key)]
    if _FRAMEWORK in differing:
        differing = [key for key in differing if key not in _DEPENDENT]
    if not differing:
        return None
    lines = "; ".join(f"{key}: {stored.get(key)} there, {identity.get(key)} here" for key in differing)
    if differing == [_FRAMEWORK] and _runtimes(stored) == _runtimes(identity):
        return f"({lines}).{_OTHER_ORDER}"
    return f"({lines}).{_CAUSES.get(tuple(differing), '')}"


def _runtimes(identity: Mapping[str, str]) -> list[str]:
    """The names of an identity's runtimes, without their order."""
    return sorted(identity.get(_FRAMEWORK, "").split(", "))
