"""Calls of the user's own code, which must not end the process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from autotune.errors import UsersCodeError


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what would end the process, ``sys.exit()`` above all, into an error; other exceptions pass.

    ``sys.exit(0)`` in a data module would otherwise be the exit status of a target that is met.

    Args:
        what: The user's function or module, as the subject of a sentence.

    Raises:
        UsersCodeError: SystemExit, GeneratorExit or another BaseException of the user's came out of the block.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        if type(error).__module__.partition(".")[0] == "autotune":
            raise  # a signal of our own that passes through the user's function
        text = f"{type(error).__name__}({', '.join(map(repr, error.args))})"
        raise UsersCodeError(
            f"{what} must return or raise an Exception, but it ended with {text}. Is there a call of `sys.exit()`? "
            "Remove it, or raise a RuntimeError instead"
        ) from error
