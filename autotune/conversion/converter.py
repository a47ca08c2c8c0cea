"""The part of an adapter's package that makes other runtimes read its framework's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from autotune.adapter import Example
from autotune.conversion.tool import ConverterTool


class Converter(Protocol):
    """Makes ONNX of a framework's models, for the runtimes that do not read them.

    It is found by a file's ending or an object's package (``autotune.adapters.CONVERTERS``), so that nothing is
    imported to find out whose model it is.
    """

    name: str
    """The adapter that reads the models themselves, as users write it after ``framework:``."""

    tool: ConverterTool
    """The converter of another project that does the work, and how it is installed."""

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The bytes of an ONNX file that computes the same, and notes for the user, a line each.

        Args:
            source: A path or an object.
            example: The first batches of the user's data, on which the file is compared with the model itself.

        Raises:
            MissingDependencyError: The converter is not installed; the message names the command that installs it.
            ModelError: The model cannot be converted, or the file computes something else.
            DataError: The model does not take the first batch.
        """
        ...
