"""Python callables that an experiment file names as ``module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.errors import ExperimentError
from autotune.suggestion import suggestion


def resolve(reference: str, directory: Path) -> Callable[..., Any]:
    """Import what a reference names.

    The experiment file's directory and the working directory are put on the import path, as Python does for a script,
    so that a function may live in a file beside the experiment. They stay there: what the function imports later, and
    a worker process that imports it again, must find the same modules.

    Args:
        reference: ``module:function``, where the function may be an attribute of a class, ``module:Class.method``.
        directory: The experiment file's.

    Raises:
        ExperimentError: There is no such module, or no such callable in it. An exception inside of the module's own
            code is passed on as it is.
    """
    for place in (str(Path.cwd()), str(directory.resolve())):
        if place not in sys.path:
            sys.path.insert(0, place)
    importlib.invalidate_caches()
    module_name, _, path = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there, but something that it imports is not: that is the user's own traceback
        raise ExperimentError(
            f"Function {reference!r} must be in a module that can be imported, but there is no module {error.name!r} "
            f"beside the experiment file ({directory}), in the working directory or among the installed packages"
        ) from None
    target: Any = module
    for name in path.split("."):
        if not hasattr(target, name):
            callables = [key for key, value in vars(target).items() if callable(value) and not key.startswith("_")]
            raise ExperimentError(
                f"Function {reference!r} must exist, but {module.__file__ or module_name} has no {name!r}"
                f"{suggestion(name, callables)}"
            )
        target = getattr(target, name)
    if not callable(target):
        raise ExperimentError(f"{reference!r} must be callable, but it is a {type(target).__name__}")
    function: Callable[..., Any] = target
    return function
