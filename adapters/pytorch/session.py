"""Run a model: its graph as it is, or the package that was compiled from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.adapters.pytorch.graph import array, run_graph
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.package import package_file
from autotune.adapters.pytorch.quick import quick_graph
from autotune.errors import ApplyError
from autotune.owned_folder import OwnedFolder


class PytorchRunner:
    """A model on some threads of the CPU; see :class:`autotune.adapter.Runner`.

    Args:
        inputs: Inputs of the model.
        run: Takes its inputs as tensors and returns its outputs.
        execution: How it runs. The threads of this process are set for each call, and set back after it.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], run: Callable[..., Sequence[torch.Tensor]], execution: Execution
    ) -> None:
        self._inputs = inputs
        self._run = run
        self._threads = execution.threads
        self._seen: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: The model does not take the shape of an input, or PyTorch fails.
        """
        arrays = [np.asarray(feeds[spec.name], spec.dtype, order="C") for spec in self._inputs]
        shapes = tuple([each.shape for each in arrays])
        if shapes not in self._seen:
            self._require_fit(arrays)
            self._seen.add(shapes)
        try:
            with threads(self._threads):
                outputs = self._run(*[_as_tensor(each) for each in arrays])
        except RuntimeError as error:
            raise ApplyError(f"PyTorch failed to run the model: {str(error).strip().splitlines()[0]}") from error
        return tuple([array(output).copy() for output in outputs])

    def _require_fit(self, arrays: Sequence[Array]) -> None:
        """See that inputs have the dimensions that are fixed: a compiled model reads past the end of others."""
        sizes: dict[str, int] = {}
        for spec, value in zip(self._inputs, arrays, strict=True):
            fits = len(spec.shape) == value.ndim and all(
                sizes.setdefault(dim, size) == size if isinstance(dim, str) else dim in (None, size)
                for dim, size in zip(spec.shape, value.shape, strict=False)
            )
            if not fits:
                shape = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
                raise ApplyError(
                    f"Input {spec.name!r} takes arrays of shape ({shape}), but got one of shape {value.shape}. Give "
                    "batches of that shape, or export the model with free dimensions"
                )


def quick_runner(model: PytorchModel, execution: Execution) -> PytorchRunner:
    """The model as its graph stands, which needs no compiler; a package runs as it was compiled."""
    if model.graph is None:
        return compiled_runner(model, execution)
    graph = quick_graph(model.graph)
    return PytorchRunner(model.inputs, lambda *inputs: run_graph(graph, inputs), execution)


def compiled_runner(model: PytorchModel, execution: Execution) -> PytorchRunner:
    """The model as Inductor compiled it.

    Raises:
        ApplyError: Inductor refuses the model.
    """
    return PytorchRunner(model.inputs, _Package(model), execution)


class _Package:
    """A package that was loaded."""

    def __init__(self, model: PytorchModel) -> None:
        try:
            with _unpacking():
                self._loaded: Any = torch._inductor.aoti_load_package(str(package_file(model)))
        except RuntimeError as error:
            raise ApplyError(f"PyTorch refuses the package: {str(error).strip().splitlines()[0]}") from error

    def __call__(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        found = self._loaded(*inputs)
        return (found,) if isinstance(found, torch.Tensor) else tuple(found)


@contextlib.contextmanager
def _unpacking() -> Iterator[None]:
    """With a folder of its own for what PyTorch unpacks, removed once that is loaded.

    PyTorch removes its folder with the session, and so leaves it where the process is killed.
    """
    before = os.environ.get("TMPDIR")
    with OwnedFolder() as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """With this many threads inside of PyTorch's kernels."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_tensor(value: Array) -> torch.Tensor:
    # PyTorch warns of arrays that must not be written to, which no graph here does.
    return torch.from_numpy(value if value.flags.writeable else value.copy())
