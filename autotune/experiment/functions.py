"""Data loaders that a user's own function makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from autotune.errors import DataError
from autotune.experiment.references import resolve
from autotune.users_code import users_code


class FunctionLoader:
    """The batches that a user's function returns or yields; can be iterated again and again.

    The function's result is kept where it can be iterated again. A generator can be read once, so that the function is
    called anew for every pass.
    """

    def __init__(self, reference: str, directory: Path, args: Mapping[str, Any], trust: Collection[str] = ()) -> None:
        self._reference = reference
        self._directory = directory
        self._args = dict(args)
        self._trust = tuple(trust)
        self._function = resolve(reference, directory, trust)
        self._loader: Any = None
        self._iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        if self._loader is not None:
            return iter(self._loader)
        with users_code(f"Function {self._reference!r}"):
            made = self._function(**self._args)
        try:
            iterator: Iterator[Any] = iter(made)
        except TypeError:
            raise DataError(
                f"Function {self._reference!r} must return an iterable of batches, but returned a {type(made).__name__}"
            ) from None
        if iterator is not made:
            self._loader = made
        elif made is self._iterator:
            raise DataError(
                f"Function {self._reference!r} must return a new iterator with every call, but returned one that has "
                "been read already. Make it in the function, or return a list of batches"
            )
        else:
            self._iterator = made
        return iterator

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the reference; another process imports the function by it."""
        return {"reference": self._reference, "directory": self._directory, "args": self._args, "trust": self._trust}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # the constructor is what makes a loader of these
