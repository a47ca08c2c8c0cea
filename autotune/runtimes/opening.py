"""Reads the user's model on every runtime, and leaves out those that cannot run it or compute something else."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from autotune.adapter import Adapter, Array, Execution, Feeds, TensorSpec, quick_runner
from autotune.batch import BatchAxes, BatchChoice, axes_of
from autotune.data import first_batch
from autotune.errors import AutotuneError, DeadlineReached, ExperimentError, InputError, WorkspaceError
from autotune.restriction import SpaceRestriction
from autotune.runtimes.adapter import RuntimesAdapter
from autotune.tuning.loading import Loaded
from autotune.tuning.output_error import output_error

Failures: TypeAlias = dict[str, Exception]
"""By name of a runtime: why it takes no part."""

_TOLERANCE = 1e-6
"""Squared difference of fp32 outputs, as a share of their squared spread, up to which two runtimes compute the same.
ONNX Runtime and OpenVINO part by 1e-12 at most on ResNet-20, MobileNetV2 and MiniLM."""
_TOLERANCE_OF_INTEGERS = 0.01
"""Share of the values of an integer output that may differ: a class index flips where two scores are equal."""


def open_all(
    adapter: RuntimesAdapter,
    load: Callable[[str, Adapter[Any]], Loaded],
    loader: Iterable[object],
    restriction: SpaceRestriction,
    execution: Execution,
) -> tuple[Sequence[Loaded], Mapping[str, str]]:
    """The model on each runtime that can run it, and for each other one the reason.

    All that remain count samples along the same axes, and have what ``restriction`` allows as their space.

    Args:
        adapter: All runtimes.
        load: Reads the model with the adapter of one of them, given its name and the adapter.
        loader: The calibration data; each runtime runs the first batch.
        restriction: Restriction of the spaces that the user asks for.
        execution: How the model runs.

    Raises:
        InputError: No runtime is left; the message has all reasons.
        DeadlineReached: The time was up.
    """
    failures: Failures = dict(adapter.unavailable)
    loaded: dict[str, Loaded] = {}
    for name, each in adapter.adapters.items():
        with _failing(failures, name):
            loaded[name] = load(name, each)
    _restrict(loaded, restriction, failures)
    _with_shared_axes(loaded)
    outputs: dict[str, tuple[Array, ...]] = {}
    for name, model in loaded.items():
        with _failing(failures, name):
            outputs[name] = _run(model, next(iter(loaded.values())), loader, execution)
    _leave_out(loaded, failures)
    for name, reason in _parting(loaded, outputs).items():
        failures[name] = InputError(reason)
    _leave_out(loaded, failures)
    if not loaded:
        raise _none_left(adapter, failures)
    return list(loaded.values()), {name: _describe(error) for name, error in failures.items()}


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason that runtimes take no part, with the names of all that share it.

    Args:
        reasons: By name of a runtime: why it takes no part.
    """
    return [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} left out: {reason}"
        for reason, names in _by_reason(reasons).items()
    ]


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found


@contextlib.contextmanager
def _failing(failures: Failures, name: str) -> Iterator[None]:
    """Keep what is raised inside of the ``with`` block as the failure of one runtime."""
    try:
        yield
    except (DeadlineReached, WorkspaceError):
        raise
    except Exception as error:  # whatever a framework raises: another one may be able to run the model
        failures[name] = error


def _leave_out(loaded: dict[str, Loaded], failures: Failures) -> None:
    for name in [name for name in loaded if name in failures]:
        del loaded[name]


def _restrict(loaded: dict[str, Loaded], restriction: SpaceRestriction, failures: Failures) -> None:
    """Apply the user's restriction to each space; where it leaves nothing of one, that runtime is left out."""
    parts = restriction.among([each.space for each in loaded.values()])
    for (name, each), part in zip(list(loaded.items()), parts, strict=True):
        try:
            loaded[name] = dataclasses.replace(each, space=part.apply(each.space))
        except ExperimentError as error:
            failures[name] = error
            del loaded[name]


def _with_shared_axes(loaded: dict[str, Loaded]) -> None:
    """Let all runtimes count samples alike: along the axes of the first, or of one that takes a single batch size."""
    axes = [axes_of(each.model) for each in loaded.values()]
    if not axes:
        return
    shared = next((each for each in axes if not each.resizable), axes[0])
    for name, each in loaded.items():
        loaded[name] = _told(each, shared)


def _told(loaded: Loaded, axes: BatchAxes) -> Loaded:
    if not isinstance(loaded.adapter, BatchChoice) or axes_of(loaded.model) == axes:
        return loaded
    return dataclasses.replace(loaded, model=loaded.adapter.with_batch_axes(loaded.model, axes))


def _run(loaded: Loaded, first: Loaded, loader: Iterable[object], execution: Execution) -> tuple[Array, ...]:
    """The outputs of the user's model for the first batch.

    Raises:
        InputError: It reads other inputs than the first runtime's model.
        Exception: Whatever the runtime raises.
    """
    names, expected = ({spec.name for spec in each.model.inputs} for each in (loaded, first))
    if names != expected:
        raise InputError(
            f"All runtimes must read the same inputs, but here they are {_listed(names)}, and {_listed(expected)} "
            f"on {first.adapter.name}"
        )
    feeds: Feeds = first_batch(loader, first.model.inputs, axes_of(first.model)).feeds
    return quick_runner(loaded.adapter, loaded.given, execution)(feeds)


def _parting(loaded: Mapping[str, Loaded], outputs: Mapping[str, tuple[Array, ...]]) -> dict[str, str]:
    """By name of a runtime that computes something else than most others do: what.

    Where two part from each other and nobody else is there, the one that was named first is believed.
    """
    specs = {name: each.given.outputs for name, each in loaded.items()}
    found = {
        (one, other): _difference(outputs[one], outputs[other], specs[one])
        for one in outputs
        for other in outputs
        if one != other
    }
    agreeing = {one: sum(found[one, other] is None for other in outputs if other != one) for one in outputs}
    believed = max(agreeing, key=lambda name: agreeing[name], default=None)
    return {
        name: f"its fp32 outputs are not those of {believed} on the first batch: {found[believed, name]}"
        for name in outputs
        if believed is not None and name != believed and found[believed, name] is not None
    }


def _difference(expected: Sequence[Array], actual: Sequence[Array], outputs: Sequence[TensorSpec]) -> str | None:
    """How two runtimes' outputs differ; None where they compute the same."""
    shapes, others = ([each.shape for each in side] for side in (expected, actual))
    if shapes != others:
        return f"shapes {others} instead of {shapes}"
    for spec, want, have in zip(outputs, expected, actual, strict=True):
        if want.dtype.kind == "f" and not np.array_equal(np.isfinite(want), np.isfinite(have)):
            return f"output {spec.name!r} is not finite in other places"
    finite = [[np.nan_to_num(each, posinf=0.0, neginf=0.0) for each in side] for side in (expected, actual)]
    error = output_error(finite[:1], finite[1:], outputs)
    if not error <= _TOLERANCE:
        return f"they differ by {error**0.5:.2g} of their spread, more than {_TOLERANCE**0.5:.2g}"
    for spec, want, have in zip(outputs, expected, actual, strict=True):
        if want.dtype.kind != "f" and want.size and (share := float(np.mean(want != have))) > _TOLERANCE_OF_INTEGERS:
            return f"{share:.1%} of the values of output {spec.name!r} differ"
    return None


def _none_left(adapter: RuntimesAdapter, failures: Failures) -> Exception:
    """The error to raise where no runtime can run the model."""
    errors = list(failures.values())
    if not any(isinstance(error, AutotuneError) for error in errors):
        return errors[0]  # the user's own, such as of a data loader, which every runtime meets
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else InputError
    reasons = _by_reason({name: _describe(error) for name, error in failures.items()})
    lines = "; ".join(f"{', '.join(named)}: {reason}" for reason, named in reasons.items())
    names = ", ".join([*adapter.adapters, *adapter.unavailable])
    wrong = kind if issubclass(kind, InputError) else InputError
    return wrong(f"One of the runtimes {names} must be able to tune the model, but none is. {lines}")


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, AutotuneError) else f"{type(error).__name__}: {error}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
