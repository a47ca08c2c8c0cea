"""A tuned model as an ``nn.Module``, whatever runtime executes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from autotune.adapters.pytorch.arguments import TensorReader
from autotune.errors import InputError
from autotune.nested import leaves, mapped


class TunedModule(nn.Module):
    """Runs a tuned model on the CPU: tensors in, tensors out; arrays in, arrays out.

    It has no parameters, computes no gradients and cannot be trained or moved: what executes it is a runtime with the
    precision of each op settled. Inputs on another device are copied to the CPU, where the output is too. ``deepcopy``
    and pickle keep the model itself and open it anew, in another process too.

    Args:
        call: Runs the model on one batch of arrays.
        read: Makes arrays of a batch.
    """

    def __init__(self, call: Callable[[object], Any], read: TensorReader) -> None:
        super().__init__()
        self._call = call
        self._read = read
        super().train(False)

    @property
    def device(self) -> torch.device:
        """Where it runs, which is the CPU."""
        return torch.device("cpu")

    def forward(self, *inputs: object, **named: object) -> Any:
        """Run one batch.

        Args:
            inputs: As the ``forward`` of the module that was tuned takes them; also one tuple or one dict.
            named: The same by name. Inputs that the module does not take are left out.

        Raises:
            DataError: They are not what the model reads.
        """
        outputs = self._call(self._read.called(inputs, named))
        return mapped(_tensor, outputs) if any(map(_is_tensor, leaves((inputs, named)))) else outputs

    def train(self, mode: bool = True) -> TunedModule:
        """Stay in evaluation mode.

        Raises:
            InputError: Training is asked for.
        """
        if mode:
            raise InputError(
                "A tuned module stays in evaluation mode, but `.train()` was called: its weights are integers of a "
                "runtime. Train the module that was tuned, and tune it again"
            )
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TunedModule:  # noqa: ARG002
        """Refuse what `.to`, `.cuda`, `.half` and their like would change; where they change nothing, do nothing."""
        moved = fn(torch.zeros(1))
        if moved.device.type != "cpu" or moved.dtype is not torch.float32:
            raise InputError(
                f"A tuned module runs on the CPU and takes float32, but {moved.dtype} on {moved.device} was asked for: "
                "the precision of its ops is what was tuned. Tune again for another, or call it without `.to(...)`"
            )
        return self


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _tensor(output: Any) -> torch.Tensor:
    # A copy where a runtime lends its own memory, which torch would let users write to.
    return torch.from_numpy(np.array(output))
