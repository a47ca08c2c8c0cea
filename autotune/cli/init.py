"""``autotune init``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.adapter import Model, TensorSpec
from autotune.adapters import get_adapter
from autotune.cli.files import write_text
from autotune.cli.inspect import shape_text
from autotune.errors import InputError
from autotune.experiment import SCHEMA_FILE
from autotune.tuner import Tuner

_HEADER = """\
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
    npz:
      path: <calibration.npz>   # written by numpy.savez
{calibration_inputs}
    batch_size: {batch}
{preprocess}
    # Or pictures:      image_folder: {{path: train}}        a folder per class, or with labels: val.txt
    # Or your own code: function: my_module:batches        returns batches, `inputs` or `(inputs, labels)`

# quantization:                 # what may be chosen; everything that this machine offers, unless restricted here
#   op_type:
#     Conv: {{weight: {{granularity: per_channel}}, activation: {{algorithm: [minmax, kl]}}}}
#   op_name:                    # patterns may be used; `autotune inspect --ops MODEL` lists the names
#     {op_name}: {{precision: fp32}}

evaluation:
  accuracy:
    metric: topk                # or your own, in place of metric and dataset: {{function: my_module:evaluate}}
    k: 1
    dataset:                    # labelled data that the model was not trained on
      npz:
        path: <evaluation.npz>
{evaluation_inputs}
        labels: labels
      batch_size: {batch}
{evaluation_preprocess}
  performance: {{threads: 1, batch_size: 1, warmup: 10}}

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
  - normalize: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}   # those of ImageNet
{transpose}"""

_NO_STEPS = """\
# preprocess:               # step by step, for each sample
#   - rescale: {divisor: 255}
#   - cast: {dtype: float32}
"""


def init(
    model: Annotated[Path, typer.Argument(help="The fp32 model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The experiment file.")] = Path("experiment.yaml"),
    framework: Annotated[str, typer.Option(help="The framework that runs the model.")] = "onnxruntime",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented experiment file for a model."""
    if output.exists() and not force:
        raise InputError(f"{output} is there already. Choose another name with `-o`, or write over it with `--force`")
    adapter = get_adapter(framework)
    loaded = adapter.load(model)
    space = adapter.space(loaded)
    path = _written_path(model.resolve(), output.resolve().parent)
    op_name = space.ops[0].name if space.ops else "conv_0"
    write_text(output, experiment_text(loaded, path=path, framework=framework, op_name=op_name, name=output.stem))
    console = Console()
    console.print(Text(f"Wrote {output}. Fill in the data, then: autotune run {output}"), soft_wrap=True)


def _written_path(model: Path, directory: Path) -> Path:
    """The model's path as the file has it: relative where the two are near each other and so may move together."""
    relative = Path(os.path.relpath(model, directory))
    return relative if relative.parts.count("..") <= 1 else model


def experiment_text(model: Model, *, path: Path, framework: str, op_name: str, name: str) -> str:
    """The experiment file for a model.

    Args:
        model: As its adapter loaded it.
        path: Of the model, relative to the experiment file.
        framework: The name of its adapter.
        op_name: Any op, for the example.
        name: Of the workspace.
    """
    inputs = model.inputs
    tensors = [f"  # input  {spec.name}: {spec.dtype} {shape_text(spec)}" for spec in inputs]
    tensors += [f"  # output {spec.name}: {spec.dtype} {shape_text(spec)}" for spec in model.outputs]
    free = all(not spec.shape or not isinstance(spec.shape[0], int) for spec in inputs)
    fixed = next((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)), 1)
    steps = _steps(inputs)
    return _HEADER.format(
        schema=SCHEMA_FILE.as_uri(),
        path=_scalar(path.as_posix()),
        framework=framework,
        tensors="\n".join(tensors) + "\n",
        calibration_inputs=_indented(_inputs(inputs), 6),
        evaluation_inputs=_indented(_inputs(inputs), 8),
        batch=10 if free else fixed,
        preprocess=_indented(steps, 4),
        evaluation_preprocess=_indented(steps, 6),
        op_name=_scalar(op_name),
        strategy=Tuner().strategy,
        workspace=_scalar(f"runs/{name}"),
    )


def _inputs(inputs: Sequence[TensorSpec]) -> str:
    """The arrays of an archive, one for each input of the model."""
    if len(inputs) == 1:
        name = "images" if _is_picture(inputs[0]) else inputs[0].name
        return f"inputs: {_scalar(name)}            # the array's name"
    lines = [f"  {_scalar(spec.name)}: {_scalar(spec.name)}" for spec in inputs]
    return "\n".join(["inputs:   # for each input of the model, the array's name", *lines])


def _is_picture(spec: TensorSpec) -> bool:
    return spec.dtype.kind == "f" and len(spec.shape) == 4 and 3 in (spec.shape[1], spec.shape[3])


def _steps(inputs: Sequence[TensorSpec]) -> str:
    """Preprocessing as pictures usually need it, or an example where the input is none."""
    if len(inputs) != 1 or not _is_picture(inputs[0]):
        return _NO_STEPS
    channels_first = inputs[0].shape[1] == 3
    size = inputs[0].shape[2:] if channels_first else inputs[0].shape[1:3]
    sized = all(isinstance(side, int) for side in size)
    return _PICTURE_STEPS.format(
        resize=f"  - resize: {{size: [{size[0]}, {size[1]}]}}\n" if sized else "",
        transpose="  - transpose: {order: [2, 0, 1]}   # height x width x channels to channels first\n"
        if channels_first
        else "",
    )


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in text.rstrip("\n").splitlines())


def _scalar(text: str) -> str:
    """Text as YAML reads it back, quoted where it would mean something else."""
    return text if all(c.isalnum() or c in "/._-" for c in text) and not text[0].isdecimal() else json.dumps(text)
