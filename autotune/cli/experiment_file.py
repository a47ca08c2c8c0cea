"""The experiment file that ``autotune init`` writes."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from autotune.adapter import Model
from autotune.cli.inspect import shape_text
from autotune.cli.proposal import Proposal, Role, is_picture, scalar_value, zeros_shape
from autotune.tuning.tuner import Tuner

SCHEMA_NAME = "autotune.schema.json"
"""Name of the JSON Schema beside the file, where it is found on every machine that the folder is copied to."""

_TEXT = """\
# yaml-language-server: $schema={schema}
# What `autotune run` tunes. Fill in what is marked with <...>; the rest may stay as it is.
# Relative paths start at the folder of this file.

model:
  path: {path}
  framework: {framework}
{tensors}
calibration:
  sampling_size: 100            # samples from which ranges are learnt
  dataset:                      # training data; labels are not needed
{calibration}
    # Or pictures:      image_folder: {{path: train}}        a folder per class, or with labels: val.txt
    # Or your own code: function: {module}:batches           returns batches, `inputs` or `(inputs, labels)`
{ragged}
# quantization:                 # what may be chosen; everything that this machine offers, unless restricted here
#   op_type:
#     {op_type}: {{weight: {{granularity: per_channel}}, activation: {{algorithm: [minmax, kl]}}}}
#   op_name:                    # patterns too; `autotune inspect MODEL --framework {framework} --ops` lists them
#     {op_name}: {{precision: fp32}}

evaluation:
  accuracy:
{score}
    # Or your own score, in place of metric and dataset:
    # function: {module}:evaluate
    dataset:                    # data that the model was not trained on
{evaluation}
  performance: {{threads: 1, batch_size: {calls}, warmup: 10}}

tuning:
  strategy: {{name: {strategy}}}
  accuracy_criterion: {{relative: 0.01}}   # at most 1 % of the fp32 model's accuracy may be lost
  objective: latency                     # or size, or memory
  exit_policy: {{timeout: 600, max_trials: 50}}   # seconds, candidates
  random_seed: 0
  workspace: {workspace}     # the same workspace continues a run that was ended
"""

_PICTURE_STEPS = """\
preprocess:                 # step by step, for each sample; the `npz` is taken to hold uint8 pictures in RGB
{resize}  - rescale: {{divisor: 255}}
{normalize}{transpose}"""

_IMAGENET = "  - normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}   # those of ImageNet\n"

_NO_STEPS = """\
# preprocess:               # step by step, for each sample
#   - rescale: {divisor: 255}
#   - cast: {dtype: float32}
"""

_RAGGED = """\
    # A row of the archive is a call, so that all have one length. For lengths that differ, use a function.
"""


def experiment_text(
    model: Model,
    proposal: Proposal,
    *,
    path: Path,
    framework: str,
    op_name: str,
    op_type: str,
    name: str,
    module: str,
    labels: str | None = None,
) -> str:
    """The experiment file for a model.

    Args:
        model: The model as its adapter loaded it.
        proposal: Guesses from the model's inputs and outputs.
        path: Path of the model, relative to the experiment file.
        framework: The name of its adapter.
        op_name: Any op, for the example.
        op_type: Type of the same op.
        name: Name of the workspace.
        module: Module with the functions beside the file.
        labels: Name of the array with labels; None where there are none.
    """
    tensors = [f"  # input  {spec.name}: {spec.dtype} {shape_text(spec)}" for spec in model.inputs]
    tensors += [f"  # output {spec.name}: {spec.dtype} {shape_text(spec)}" for spec in model.outputs]
    labelled = labels if labels is not None and proposal.score.labelled else None
    return _TEXT.format(
        schema=SCHEMA_NAME,
        path=scalar(path.as_posix()),
        framework=framework,
        tensors="\n".join(tensors) + "\n",
        calibration=_indented(_dataset(proposal, "calibration", module, None), 4),
        evaluation=_indented(_dataset(proposal, "evaluation", module, labelled), 6),
        ragged="" if proposal.stack_axis is not None or not proposal.stacks else _RAGGED,
        score=_indented(_score(proposal, labelled), 4),
        calls=1 if proposal.axes.resizable or proposal.feeds is None else proposal.axes.size(proposal.feeds),
        op_name=scalar(op_name),
        op_type=scalar(op_type),
        module=module,
        strategy=Tuner().strategy,
        workspace=scalar(f"runs/{name}"),
    )


def _dataset(proposal: Proposal, name: str, module: str, labels: str | None) -> str:
    """A data set that `autotune run` reads once its archive is there."""
    if not proposal.stacks:
        return (
            "# The samples of these inputs lie along different axes, so that an archive cannot hold them.\n"
            f"function: {module}:batches   # random numbers until you put your data there"
        )
    lines = ["npz:", f"  path: <{name}.npz>   # of numpy.savez; the first axis of each array counts the samples"]
    lines.extend(_indented(_inputs(proposal), 2).splitlines())
    if labels is not None:
        lines.append(f"  labels: {scalar(labels)}")
    lines.extend(_constants(proposal).splitlines())
    axis = proposal.stack_axis
    if axis is None:
        lines.append("stack_axis: null            # a call takes one sample as it is")
    elif axis:
        lines.append(f"stack_axis: {axis}               # where the model counts samples")
    lines.append(f"batch_size: {_batch(proposal)}")
    return "\n".join([*lines, _steps(proposal)])


def _batch(proposal: Proposal) -> int:
    if proposal.stack_axis is None:
        return 1
    if proposal.axes.resizable or proposal.feeds is None:
        return 10
    return proposal.axes.size(proposal.feeds)


def _inputs(proposal: Proposal) -> str:
    """The arrays of an archive, one for each input that differs from sample to sample."""
    if len(proposal.inputs) == 1:
        (spec,) = proposal.inputs
        name = "images" if is_picture(spec) else spec.name
        return f"inputs: {scalar(name)}            # the array's name"
    lines = [f"  {scalar(spec.name)}: {scalar(spec.name)}" for spec in proposal.data]
    return "\n".join(["inputs:   # for each input that differs from sample to sample, the array's name", *lines])


def _constants(proposal: Proposal) -> str:
    """Inputs that are the same in every call: scalars, and states before the first one."""
    lines = []
    for spec in proposal.inputs:
        role = proposal.roles[spec.name]
        if role is Role.SCALAR:
            value = json.dumps(scalar_value(spec))
            lines.append(f"  {scalar(spec.name)}: {f'[{value}]' if spec.shape else value}   # what your calls use")
        elif role is Role.STATE:
            shape = ", ".join(map(str, zeros_shape(spec, proposal.axes)))
            array = f"{{shape: [{shape}], value: 0, dtype: {spec.dtype}}}"
            lines.append(f"  {scalar(spec.name)}: {array}   # a first state")
    return "\n".join(["constants:                  # the same in every call", *lines]) if lines else ""


def _score(proposal: Proposal, labels: str | None) -> str:
    score = proposal.score
    if labels is not None:
        return score.labelled.replace("\n    ", "\n")
    told = (
        f"It seems to be {score.kind}. Without labels it is compared with the fp32 model's own outputs. "
        f"This does not see {score.blind}."
    )
    lines = [
        *(f"# {line}" for line in textwrap.wrap(told, 100)),
        f"metric: {score.metric}",
        *(f"{name}: {value}" for name, value in score.options.items()),
    ]
    if score.labelled:
        told = score.labelled.replace("\n    ", ", ")
        lines.append(f"# With labels (`labels: their array` under `npz`), this in place of it: {told}")
    return "\n".join(lines)


def _steps(proposal: Proposal) -> str:
    """Preprocessing as pictures usually need it, or an example where the input is none."""
    if len(proposal.inputs) != 1 or not is_picture(proposal.inputs[0]):
        return _NO_STEPS
    (spec,) = proposal.inputs
    channels_first = spec.shape[1] == 3
    size = spec.shape[2:] if channels_first else spec.shape[1:3]
    sized = all(isinstance(side, int) for side in size)
    if not sized and proposal.feeds is not None:
        tried = proposal.feeds[spec.name].shape
        size, sized = tried[2:] if channels_first else tried[1:3], True
    # Detectors of the YOLO family read plain shares of 255.
    detector = proposal.score.metric == "boxes"
    return _PICTURE_STEPS.format(
        resize=f"  - resize: {{size: [{size[0]}, {size[1]}]}}\n" if sized else "",
        normalize="" if detector else _IMAGENET,
        transpose="  - transpose: {order: [2, 0, 1]}   # height x width x channels to channels first\n"
        if channels_first
        else "",
    )


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in text.rstrip("\n").splitlines())


def scalar(text: str) -> str:
    """Text as YAML reads it back, quoted where it would mean something else."""
    plain = bool(text) and all(c.isalnum() or c in "/._-" for c in text) and not text[0].isdecimal()
    return text if plain and text.lower() not in _WORDS else json.dumps(text)


_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "-"})
"""Words that YAML does not read as text."""
