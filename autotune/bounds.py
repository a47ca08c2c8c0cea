"""The rule that an option has a least value, with one message for all of them."""

from __future__ import annotations

from autotune.errors import AutotuneError


def require_least(least: int, error: type[AutotuneError], /, **options: float | None) -> None:
    """Check that options are no smaller than ``least``; None stands for an option that is not given.

    Args:
        least: The smallest value that is allowed.
        error: Type of the error to raise.
        **options: Values by the names under which users know them.

    Raises:
        AutotuneError: A value is smaller. ``error`` is the class that is raised.
    """
    for name, value in options.items():
        if value is not None and not value >= least:
            raise error(f"`{name} >= {least}` must hold, but got {value}")
