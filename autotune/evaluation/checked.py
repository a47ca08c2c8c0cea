"""A model as the evaluator runs it: its outputs are checked, and it ends when the run's time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from autotune.adapter import Array, Feeds, Runner, TensorSpec
from autotune.data import as_feeds
from autotune.errors import DeadlineReached, OutputError, TrialError
from autotune.notes import counted
from autotune.users_code import users_code


class EvaluationEnded(BaseException):
    """Ends a user's function that went on calling a model whose failure it had caught.

    It is no :class:`Exception`, so that ``except Exception`` around a call does not catch it too.
    """


class CheckedModel:
    """The model that ``eval_fn`` is given: ``model(inputs)`` returns an array, or a tuple of several outputs.

    Args:
        runner: Runs the model.
        inputs: The inputs of the fp32 model.
        outputs: The outputs of the fp32 model.
        deadline: A ``time.monotonic()`` value after which a call raises.
        finite: Names of the outputs in which NaN and infinity are an error.
        key: Equal for models that compute the same; None where that is unknown.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        deadline: float | None,
        finite: frozenset[str],
        key: str | None = None,
    ) -> None:
        self.key = key
        self._runner = runner
        self._inputs = inputs
        self._outputs = outputs
        self._deadline = deadline
        self._finite = finite
        self._failure: TrialError | None = None

    def __call__(self, inputs: object) -> Array | tuple[Array, ...]:
        """Run one batch: an array, a tuple in graph order, or a dict by input name."""
        outputs = self.run(as_feeds(inputs, self._inputs, where="The batch given to the model"))
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and check what comes out.

        Raises:
            DeadlineReached: The time given to the run is over.
            EvaluationEnded: An earlier call failed, and what it raised was caught.
            OutputError: An output is not finite, or has another number of dimensions than fp32's.
        """
        if self._failure is not None:
            raise EvaluationEnded(str(self._failure))
        try:
            self.require_time()
            outputs = self._runner(feeds)
            self._check(outputs)
        except TrialError as error:
            self._failure = error
            raise
        return outputs

    def require_time(self) -> None:
        """See that the run has time left; also called between reading two batches.

        Raises:
            DeadlineReached: It has none.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DeadlineReached("The time given to the run ended while accuracy was being evaluated")

    def judged_by(self, function: Callable[[CheckedModel], object]) -> object:
        """Call a user's function with this model and return its result.

        A function that catches an error of ours sees it once. Its next call of the model ends it, past every
        ``except Exception``; only ``except BaseException`` around the calls keeps it going, and what it returns then
        does not count.

        Raises:
            TrialError: A call of the model failed, and the function caught it; or the time was up.
            UsersCodeError: It tried to end the process.
            Exception: Any exception of the function itself.
        """
        try:
            with users_code("eval_fn"):
                result = function(self)
        except EvaluationEnded:
            self.raise_failure()
            raise
        except Exception:
            if isinstance(self._failure, DeadlineReached):
                self.raise_failure()
            raise
        self.raise_failure()
        return result

    def raise_failure(self) -> None:
        """Raise again what a call raised before: an ``eval_fn`` may have caught it along with its own errors."""
        if self._failure is not None:
            raise self._failure

    def _check(self, outputs: tuple[Array, ...]) -> None:
        if len(outputs) != len(self._outputs):
            raise OutputError(
                f"The candidate must have {counted(len(self._outputs), 'output')}, but has {len(outputs)}"
            )
        for spec, output in zip(self._outputs, outputs, strict=True):
            if output.ndim != len(spec.shape) and spec.shape:
                raise OutputError(
                    f"Output {spec.name!r} must have {counted(len(spec.shape), 'dimension')}, but "
                    f"has shape {output.shape}"
                )
            if spec.name in self._finite:
                check_finite(spec.name, output)


def all_finite(output: Array) -> bool:
    """Whether an output has neither NaN nor infinity."""
    return output.dtype.kind not in "fc" or bool(np.isfinite(output).all())


def check_finite(name: str, output: Array) -> None:
    """See that an output has neither NaN nor infinity.

    Raises:
        OutputError: It has; the message names the output and counts them.
    """
    if not all_finite(output):
        bad = int(np.size(output) - np.isfinite(output).sum())
        raise OutputError(f"Output {name!r} must be finite, but {bad} of its {output.size} values are NaN or infinite")


def check_same_shapes(outputs: Sequence[TensorSpec], expected: Sequence[Array], actual: Sequence[Array]) -> None:
    """See that a candidate's outputs have the shapes of the fp32 model's on the same inputs.

    Raises:
        OutputError: The number of outputs or the shape of one differs; the message names it.
    """
    if len(actual) != len(expected):
        raise OutputError(
            f"The candidate must have the {counted(len(expected), 'output')} of the fp32 model, but has {len(actual)}"
        )
    for spec, want, have in zip(outputs, expected, actual, strict=True):
        if have.shape != want.shape:
            raise OutputError(
                f"Output {spec.name!r} must have the shape {want.shape} of the fp32 model's, but it has {have.shape}"
            )


def finite_outputs(outputs: Sequence[TensorSpec], expected: Sequence[Array]) -> frozenset[str]:
    """Outputs that must be finite: those that are so in the fp32 model, which may well write -inf into a mask."""
    return frozenset(spec.name for spec, output in zip(outputs, expected, strict=True) if all_finite(output))


def prove(runner: Runner, feeds: Feeds, outputs: Sequence[TensorSpec], expected: Sequence[Array]) -> None:
    """Run a candidate once, and check what comes out against the fp32 model's outputs on the same inputs.

    Raises:
        OutputError: An output is of another shape, or not finite where fp32's is.
        TrialError: The candidate fails when it runs.
    """
    try:
        actual = runner(feeds)
    except TrialError:
        raise
    except Exception as error:
        raise TrialError(f"The candidate fails when it runs: {type(error).__name__}: {error}") from error
    check_same_shapes(outputs, expected, actual)
    finite = finite_outputs(outputs, expected)
    for spec, output in zip(outputs, actual, strict=True):
        if spec.name in finite:
            check_finite(spec.name, output)
