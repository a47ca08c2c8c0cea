"""The toy framework as if it had to be compiled: what was compiled is counted, and takes scripted time."""

from __future__ import annotations

from collections.abc import Callable

from autotune.adapter import Array, Execution, Feeds, Runner
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel, NumpyRunner


class Compiler:
    """The scripted compiler of an adapter.

    Args:
        spend: Called for each compilation, to let a scripted clock go on.
        changes: Changes the outputs of a compiled model, as a faulty compiler does.
    """

    def __init__(
        self, spend: Callable[[], None] = lambda: None, changes: Callable[[Array], Array] = lambda array: array
    ) -> None:
        self.spend = spend
        self.changes = changes
        self.compiled: list[str] = []

    def run(self, runner: NumpyRunner, feeds: Feeds) -> tuple[Array, ...]:
        """Outputs of a compiled model."""
        return tuple(self.changes(output) for output in runner(feeds))


class CompilingAdapter(NumpyAdapter):
    """A :class:`NumpyAdapter` that adds :class:`autotune.adapter.Compiles`; a test gives each its own compiler."""

    compiler = Compiler()

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:  # noqa: ARG002
        """The model, compiled where it is not yet."""
        compiler = self.compiler
        if model.fingerprint not in compiler.compiled:
            compiler.compiled.append(model.fingerprint)
            compiler.spend()
        runner = NumpyRunner(model)
        return lambda feeds: compiler.run(runner, feeds)

    def quick_runner(self, model: NumpyModel, execution: Execution) -> Runner:  # noqa: ARG002
        """The model as it is."""
        return NumpyRunner(model)

    def is_compiled(self, model: NumpyModel) -> bool:
        """Whether :meth:`runner` was called with such a model."""
        return model.fingerprint in self.compiler.compiled


def compiling(compiler: Compiler) -> CompilingAdapter:
    """An adapter without state of its own that compiles with ``compiler``."""
    return type("OwnCompilingAdapter", (CompilingAdapter,), {"compiler": compiler})()  # type: ignore[no-any-return]
