"""Guesses from a model's inputs and outputs: which data it reads, and how it may be scored without labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from autotune.adapter import Adapter, Array, Execution, Feeds, Model, ModelT, Runner, TensorSpec
from autotune.batch import BatchAxes, declared_axes
from autotune.calls import settled_axes
from autotune.errors import TrialError

_STATE = re.compile(r"state|hidden|cell|past|cache|memory|^[hc](_?(0|n|in|prev))?$", re.IGNORECASE)
_CACHE = re.compile(r"past|cache", re.IGNORECASE)
_NEXT = re.compile(r"^(?:new|next|out|output|updated)_?|_?(?:n|new|next|out|output|updated)$", re.IGNORECASE)
_PREVIOUS = re.compile(r"^(?:past|prev|in|input|initial)_?|_?(?:0|in|prev|past|init)$", re.IGNORECASE)
_SCALARS = (
    (re.compile(r"^sr$|rate", re.IGNORECASE), 16000),
    (re.compile(r"^f(req)?_?min", re.IGNORECASE), 50),
    (re.compile(r"^f(req)?_?max", re.IGNORECASE), 2000),
    (re.compile(r"min|low", re.IGNORECASE), 0),
)
"""Usual values of scalars with these names: sampling rates and frequencies in hertz, lower bounds."""
_LOGITS = re.compile(r"logit", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|feature|vector|pool|hidden|latent", re.IGNORECASE)
_BOXES = re.compile(r"box", re.IGNORECASE)

_LARGEST_CLASSES = 1000
"""Columns up to which an output of three axes may be scores of classes for each anchor."""

_ANCHORS = 4
"""Times as many anchors as columns a detector has at least, before suppression."""

_BATCHES = (4, 1)
_SIZES = (16, 64, 512, 576, 1024, 16000, 8, 2, 1)
"""Free dimensions that are tried in turn until the model runs."""
_PICTURE_SIZES = (224, 320, 640, 64, 32)
"""The same for pictures."""


class Role(StrEnum):
    """The role of an input."""

    DATA = "data"
    """Its values differ from sample to sample."""
    SCALAR = "scalar"
    """Its value is the same in every call."""
    STATE = "state"
    """Its values are an output of the call before, and zero in the first."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a model may be scored without labels.

    Attributes:
        metric: Name of the metric.
        options: Options of the metric.
        kind: Kind of model that it seems to be, with an article.
        blind: Errors that the metric does not see.
        labelled: How labels would be used, as YAML; empty where no built-in metric reads such labels.
    """

    metric: str
    kind: str
    blind: str
    options: Mapping[str, str | int] = field(default_factory=dict)
    labelled: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Entries for a model's experiment file.

    Attributes:
        inputs: Inputs of the model.
        roles: By input.
        axes: Which axes count samples.
        feeds: A batch of random numbers in the shapes that the model takes; None where none was found.
        score: How it may be scored.
    """

    inputs: tuple[TensorSpec, ...]
    roles: Mapping[str, Role]
    axes: BatchAxes
    feeds: Feeds | None
    score: Score

    @property
    def data(self) -> tuple[TensorSpec, ...]:
        """The inputs that differ from sample to sample."""
        return tuple(spec for spec in self.inputs if self.roles[spec.name] is Role.DATA)

    @property
    def stack_axis(self) -> int | None:
        """Axis along which an archive's rows are stacked to a batch; None where a row is a call."""
        axes = {self.axes.inputs.get(spec.name) for spec in self.data}
        return axes.pop() if len(axes) == 1 else None

    @property
    def stacks(self) -> bool:
        """Whether all rows are stacked along one axis, or none is: what an archive can say."""
        return len({self.axes.inputs.get(spec.name) for spec in self.data}) == 1


def propose(adapter: Adapter[ModelT], model: ModelT) -> Proposal:
    """Look at a model's inputs and outputs, and run it once on random numbers where it runs on them."""
    roles = input_roles(model)
    runner = adapter.runner(model, Execution())
    declared = declared_axes(model.inputs, model.outputs)
    feeds, outputs = _tried(model, roles, declared, runner)
    axes = declared
    if feeds is not None:
        axes, _ = settled_axes(declared, model, feeds, declared.size(feeds), runner)
        outputs = axes.per_sample(outputs)
    return Proposal(
        inputs=model.inputs,
        roles=roles,
        axes=axes,
        feeds=feeds,
        score=_score(model, axes, outputs),
    )


def input_roles(model: Model) -> dict[str, Role]:
    """The role of each input, by its shape and name; at least one is data."""
    roles = {}
    for spec in model.inputs:
        scalar = spec.shape in ((), (1,))
        if scalar:
            roles[spec.name] = Role.SCALAR
        elif _STATE.search(spec.name) and _next_state(spec, model.outputs):
            roles[spec.name] = Role.STATE
        else:
            roles[spec.name] = Role.DATA
    if Role.DATA not in roles.values():
        roles = dict.fromkeys(roles, Role.DATA)
    return roles


def _next_state(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The output that the next call reads: of this input's shape, and of its name but for before and after."""

    def alike(output: TensorSpec) -> bool:
        fixed = zip(spec.shape, output.shape, strict=True)
        return all(not (isinstance(a, int) and isinstance(b, int)) or a == b for a, b in fixed)

    shaped = [output for output in outputs if len(output.shape) == len(spec.shape) and alike(output)]
    stems = _stems(spec.name, _PREVIOUS)
    return next((output for output in shaped if not stems.isdisjoint(_stems(output.name, _NEXT))), None)


def _stems(name: str, decoration: re.Pattern[str]) -> set[str]:
    """A state's name with and without the part that distinguishes before and after."""
    text = re.sub(r"(past|present)(_key_values?)?", "kv", name.lower())
    return {text, decoration.sub("", text) or text}


def zeros_shape(spec: TensorSpec, axes: BatchAxes) -> list[int | str]:
    """The shape of a first state, ``batch`` where samples are counted: nothing remembered, in a cache."""
    shape: list[int | str] = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            shape.append(dim)
        elif axes.inputs.get(spec.name) == axis:
            shape.append("batch")
        else:
            shape.append(0 if _CACHE.search(spec.name) else 1)
    return shape


def scalar_value(spec: TensorSpec) -> int | float | bool:
    """A plausible value of a scalar input, by its name; 1 where the name says nothing."""
    if spec.dtype.kind == "b":
        return True
    value = next((value for pattern, value in _SCALARS if pattern.search(spec.name)), 1)
    return float(value) if spec.dtype.kind == "f" else value


def _tried(
    model: Model, roles: Mapping[str, Role], axes: BatchAxes, runner: Runner
) -> tuple[Feeds | None, tuple[Array, ...]]:
    """Random feeds on which the model runs, and what it gives; None and nothing where no size is right."""
    sizes = _PICTURE_SIZES if any(is_picture(spec) for spec in model.inputs) else _SIZES
    for batch, size in itertools.product(_BATCHES, sizes):
        feeds = {spec.name: _random(spec, roles[spec.name], axes, batch, size) for spec in model.inputs}
        try:
            return feeds, tuple(runner(feeds))
        except TrialError:
            continue
    return None, ()


def _random(spec: TensorSpec, role: Role, axes: BatchAxes, batch: int, size: int) -> Array:
    counting = axes.inputs.get(spec.name)
    shape = [
        dim if isinstance(dim, int) else batch if axis == counting else size for axis, dim in enumerate(spec.shape)
    ]
    if role is Role.SCALAR:
        return np.full(shape, scalar_value(spec), spec.dtype)
    if role is Role.STATE:
        zeros = [batch if dim == "batch" else int(dim) for dim in zeros_shape(spec, axes)]
        return np.zeros(zeros, spec.dtype)
    generator = np.random.default_rng(0)
    if spec.dtype.kind == "f":
        # Large ones: what lies between 0 and 1 all the same is bounded there, and no number that happens to.
        return (30 * generator.standard_normal(shape)).astype(spec.dtype)
    if spec.dtype.kind == "O":
        return np.full(shape, "text", object)
    # Words and classes of any model, and a mask that hides nothing.
    return np.ones(shape, spec.dtype)


def _score(model: Model, axes: BatchAxes, outputs: Sequence[Array]) -> Score:
    """How the model may be scored, by the first of its outputs that is no state."""
    states = {
        after.name
        for spec in model.inputs
        if _STATE.search(spec.name) and (after := _next_state(spec, model.outputs)) is not None
    }
    shapes = [_shape(spec, axes, place, outputs) for place, spec in enumerate(model.outputs)]
    floats = [
        place
        for place, spec in enumerate(model.outputs)
        if spec.dtype.kind == "f" and spec.name not in states and (len(shapes[place]) > 0)
    ]
    if any(is_picture(spec) for spec in model.inputs) and (found := _detector(model, shapes, floats)):
        return found
    if not floats:
        return Score(metric="agreement", kind="a model without outputs of floats", blind="anything but its classes")
    # Scores of classes say more than a class; a skl2onnx classifier has both.
    place = max(floats, key=lambda each: len(shapes[each]) == 2 and shapes[each][1] not in (1, None))
    values = outputs[place] if outputs else None
    return _plain(model.outputs[place], shapes[place], place, values)


def _shape(spec: TensorSpec, axes: BatchAxes, place: int, outputs: Sequence[Array]) -> tuple[int | str | None, ...]:
    """An output's shape with samples in front; sizes are those of the call that was tried, if there was one."""
    if outputs:
        return tuple(outputs[place].shape)
    shape = list(spec.shape)
    axis = axes.outputs[place] if place < len(axes.outputs) else 0
    return tuple(shape if not axis else [shape[axis], *shape[:axis], *shape[axis + 1 :]])


def _detector(model: Model, shapes: Sequence[tuple[int | str | None, ...]], floats: Sequence[int]) -> Score | None:
    """Boxes, where an output is shaped like them."""
    blind = (
        "whether fp32's detections are right, which a cosine would not even see gone: "
        "of a detector whose boxes matched at F1 0.44 it was 0.999"
    )
    for place in floats:
        shape, name = shapes[place], model.outputs[place].name
        if len(shape) != 3:
            continue
        rows, columns = shape[1:]
        options: dict[str, str | int] = {"output": place}
        if columns == 4 and _BOXES.search(name) and len(model.outputs) > 1:
            options |= {"layout": "separate", **_beside(model, place)}
        elif columns == 6 and (not isinstance(rows, int) or rows <= _LARGEST_CLASSES):
            options |= {"layout": "suppressed"}
        elif _many(rows, columns, least=5):
            options |= {"layout": "yolov8"}
        elif _many(columns, rows, least=6):
            options |= {"layout": "yolov5"}
        else:
            continue
        return Score(metric="boxes", options=options, kind="a detector of objects", blind=blind)
    return None


def _beside(model: Model, boxes: int) -> dict[str, str | int]:
    """The outputs with scores and classes."""
    others = [place for place in range(len(model.outputs)) if place != boxes]
    named = [place for place in others if re.search(r"score|conf", model.outputs[place].name, re.IGNORECASE)]
    scores = (named or [place for place in others if model.outputs[place].dtype.kind == "f"] or others)[0]
    classes = next((place for place in others if place != scores), -1)
    return {"scores": scores, "classes": classes}


def _many(numbers: int | str | None, anchors: int | str | None, *, least: int) -> bool:
    """Whether an axis may count the numbers of an anchor, and the other one anchors."""
    if not isinstance(numbers, int) or not least <= numbers <= _LARGEST_CLASSES:
        return False
    return isinstance(anchors, int) and anchors >= _ANCHORS * numbers


def _plain(spec: TensorSpec, shape: tuple[int | str | None, ...], place: int, values: Array | None) -> Score:
    options: dict[str, str | int] = {"output": place} if place else {}
    rank, last = len(shape), shape[-1]
    if rank == 3 and (_LOGITS.search(spec.name) or (isinstance(last, int) and last > _LARGEST_CLASSES)):
        return Score(
            metric="agreement",
            options={**options, "axis": -1},
            kind="a classifier of each step",
            blind="which answers are right, and that one wrong step may change all that follow when text is generated",
        )
    if len(spec.shape) == rank - 1 or (rank == 2 and spec.shape and not isinstance(spec.shape[-1], int)):
        return Score(
            metric="fidelity" if rank == 2 else "cosine",
            options=options,
            kind="a model that predicts numbers for each step",
            blind="how near fp32's own numbers are to the truth",
        )
    if rank == 1 or (rank == 2 and last == 1):
        if values is not None and values.size and float(values.min()) >= 0 and float(values.max()) <= 1:
            return Score(
                metric="agreement",
                options=options,
                kind="a yes-or-no classifier: its output lies between 0 and 1",
                blind="which answers are right, and how near to the threshold of 0.5 they are",
                labelled="metric: roc_auc",
            )
        return Score(
            metric="fidelity",
            options=options,
            kind="a model that predicts a number",
            blind="how near fp32's own numbers are to the truth",
            labelled="metric: r2",
        )
    if rank == 2 and not _EMBEDDING.search(spec.name):
        return Score(
            metric="agreement",
            options=options,
            kind="a classifier",
            blind="which answers are right: a sample on which fp32 errs counts like any other",
            labelled="metric: topk\n    k: 1",
        )
    return Score(
        metric="cosine",
        options=options,
        kind="a model that gives vectors",
        blind="which of the values matter: small ones vanish beside large ones, and so does what is compared by rank",
    )


def is_picture(spec: TensorSpec) -> bool:
    """Whether an input is a batch of pictures in colour."""
    return spec.dtype.kind == "f" and len(spec.shape) == 4 and 3 in (spec.shape[1], spec.shape[3])
