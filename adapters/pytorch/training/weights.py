"""The user's module with weights that were trained, and its weights in a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotune.adapters.pytorch.quiet import quiet
from autotune.errors import ApplyError, WorkspaceError


def with_weights(source: Any, state: Mapping[str, Any]) -> Any:
    """A copy of a module or program with other weights.

    Args:
        source: The user's.
        state: By name of a parameter or buffer; what the user's does not have is left out.

    Raises:
        ApplyError: One is missing, has another shape, or is not finite.
    """
    own = _state(source)
    found = {}
    for name, before in own.items():
        after = state.get(name)
        if not isinstance(after, torch.Tensor) or after.shape != before.shape:
            what = "is missing" if after is None else f"has shape {tuple(getattr(after, 'shape', ()))}"
            raise ApplyError(
                f"A trained model must have the parameters of the module, but {name!r} {what}. Train the module that "
                "`train_fn` is given in place, or return one with the same parameters"
            )
        if after.is_floating_point() and not bool(torch.isfinite(after).all()):
            raise ApplyError(
                f"Weights must be finite after training, but {name!r} is not: training diverged. Lower the learning "
                "rate, or clip gradients"
            )
        found[name] = after.detach().to(device="cpu", dtype=before.dtype).clone()
    with quiet():  # a line of torch's own code warns of another one
        trained = copy.deepcopy(source)
    with torch.no_grad():
        for name, value in _state(trained).items():
            value.copy_(found[name])
    return trained


def differ(source: Any, trained: Any) -> bool:
    """Whether any weight of two modules or programs differs."""
    other = _state(trained)
    return any(not torch.equal(value, other[name]) for name, value in _state(source).items())


def save(source: Any, path: Path) -> None:
    """Write the weights of a module or program.

    Raises:
        OSError: The file cannot be written.
    """
    torch.save({name: value.detach() for name, value in _state(source).items()}, path)


def load(source: Any, path: Path) -> Any:
    """A copy of a module or program with the weights of a file.

    Raises:
        WorkspaceError: The file is damaged, or of another model.
    """
    try:
        return with_weights(source, torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, ApplyError) as error:
        raise WorkspaceError(
            f"Trained weights must be those of this model, but {path} cannot be used: {error}. Remove it, and the "
            "model is trained again"
        ) from error


def _state(source: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their names; what is no tensor is left out."""
    state = source.state_dict() if isinstance(source, nn.Module) else source.state_dict
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
