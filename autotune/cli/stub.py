"""The module of functions that ``autotune init`` writes beside an experiment file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.cli.proposal import Proposal, Role

_TEXT = '''\
"""Functions that {experiment} may use in place of archives and built-in metrics. They run as they are."""

from functools import cache
from pathlib import Path

import numpy as np

from autotune.adapter import Execution
from autotune.adapters import get_adapter

MODEL = Path(__file__).parent / {path}


def batches():
    """Batches as the model reads them, of random numbers: put your own data here. Labels go into `evaluate`."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        yield {{
{arrays}
        }}


@cache
def fp32_outputs():
    """What the fp32 model gives on each batch."""
    adapter = get_adapter({framework})
    run = adapter.runner(adapter.load(MODEL), Execution())
    return [run(inputs) for inputs in batches()]


def evaluate(model):
    """The score of a model, larger is better. Put your own here: it is what `accuracy_criterion` judges.

    As it stands, how near the first output is to the fp32 model's: 1 minus the relative squared error. That does not
    see whether fp32 is right, nor small values beside large ones.
    """
    error = total = 0.0
    for inputs, expected in zip(batches(), fp32_outputs(), strict=True):
        outputs = model(inputs)  # one array, or a tuple where the model has several outputs
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        error += float(np.square(first.astype(np.float64) - expected[0]).sum())
        total += float(np.square(expected[0].astype(np.float64)).sum())
    return 1.0 - error / max(total, 1e-30)
'''


def stub_text(proposal: Proposal, *, path: Path, framework: str, experiment: str) -> str:
    """The module for a model.

    Args:
        proposal: Guesses from the model's inputs and outputs.
        path: Path of the model, relative to the module.
        framework: The name of its adapter.
        experiment: The file that the module is for.
    """
    feeds = proposal.feeds or {}
    lines = [
        f"            {_text(spec.name)}: {_array(spec, proposal.roles[spec.name], feeds.get(spec.name))},"
        for spec in proposal.inputs
    ]
    return _TEXT.format(
        experiment=experiment, path=_text(path.as_posix()), framework=_text(framework), arrays="\n".join(lines)
    )


def _text(value: object) -> str:
    """A literal of Python in the quotes that formatters prefer."""
    return json.dumps(str(value), ensure_ascii=False)


def _array(spec: TensorSpec, role: Role, tried: Array | None) -> str:
    """An expression for an input in the shape that was tried; where none ran, free dimensions are left to the user."""
    if tried is None:
        shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
        tried = np.zeros(shape, spec.dtype)
    if role is Role.SCALAR:
        return f"np.full({tried.shape}, {tried.flat[0].item()!r}, {_text(spec.dtype)})"
    if role is Role.STATE:
        return f"np.zeros({tried.shape}, {_text(spec.dtype)})"
    if spec.dtype.kind == "f":
        return f"generator.standard_normal({tried.shape}).astype({_text(spec.dtype)})"
    if spec.dtype.kind == "O":
        return f'np.full({tried.shape}, "text", object)'
    return f"np.ones({tried.shape}, {_text(spec.dtype)})"
