"""Python callables that an experiment file names as ``module:function``, and which of them may be called.

An experiment file is code: what it names is run with the rights of whoever runs it. So that a file from elsewhere runs
no more than what lies beside it, a function has to come from the experiment's own folder, or from a package that the
user trusts by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from autotune.errors import ExperimentError
from autotune.suggestion import suggestion
from autotune.users_code import users_code


def resolve(reference: str, directory: Path, trust: Collection[str] = ()) -> Callable[..., Any]:
    """Import what a reference names.

    The experiment file's directory and the working directory are appended to the import path: a file beside the
    experiment never takes the place of an installed package. They stay there: what the function imports later, and a
    worker process that imports it again, must find the same modules.

    Args:
        reference: ``module:function``, where the function may be an attribute of a class, ``module:Class.method``.
        directory: The experiment file's.
        trust: Packages whose functions may be called too.

    Raises:
        ExperimentError: There is no such module, no such callable in it, or it comes from elsewhere. An exception
            inside of the module's own code is passed on as it is.
    """
    source_of(reference, directory, trust)
    module_name, _, path = reference.partition(":")
    try:
        with users_code(f"Module {module_name!r}"):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there, but something that it imports is not: that is the user's own traceback
        raise _missing(reference, error.name, directory) from None
    target: Any = module
    for name in path.split("."):
        if not hasattr(target, name):
            callables = [key for key, value in vars(target).items() if callable(value) and not key.startswith("_")]
            raise ExperimentError(
                f"Function {reference!r} must exist, but {module.__file__ or module_name} has no {name!r}"
                f"{suggestion(name, callables)}"
            )
        target = getattr(target, name)
        if home := _foreign(target, directory, trust):
            raise ExperimentError(
                f"Function {reference!r} must be defined in the folder of the experiment file ({directory}), but it "
                f"comes from {home!r}. Call it in a function of your own there, or allow it with `--trust {home}`"
            )
    if not callable(target):
        raise ExperimentError(f"{reference!r} must be callable, but it is a {type(target).__name__}")
    function: Callable[..., Any] = target
    return function


def source_of(reference: str, directory: Path, trust: Collection[str] = ()) -> str:
    """Where the code of a reference lies, as a path; imports nothing.

    Raises:
        ExperimentError: There is no such module, or it lies outside of the folder and of trusted packages.
    """
    for place in (str(directory.resolve()), str(Path.cwd())):
        if place not in sys.path:
            sys.path.append(place)
    importlib.invalidate_caches()
    package = reference.partition(":")[0].partition(".")[0]
    spec = _found(package)
    if spec is None:
        raise _missing(reference, package, directory)
    lies = _place(spec) or "Python itself"
    if package in trust or _is_beside(spec, package, directory):
        return lies
    beside = PathFinder.find_spec(package, [str(directory.resolve())])
    if beside is not None and _place(beside) is not None:
        raise ExperimentError(
            f"Module {package!r} of function {reference!r} must have a name of its own, but {_place(beside)} is called "
            f"like the module in {lies}, which comes first. Rename the file"
        )
    raise ExperimentError(
        f"Function {reference!r} must come from the folder of the experiment file ({directory}), but {package!r} is "
        f"the module in {lies}. Where you know what it does, allow it with `--trust {package}`"
    )


def _missing(reference: str, module: str, directory: Path) -> ExperimentError:
    return ExperimentError(
        f"Function {reference!r} must be in a module that can be imported, but there is no module {module!r} "
        f"beside the experiment file ({directory}), in the working directory or among the installed packages"
    )


def _found(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # a module that is there and has no spec, such as __main__
        return None


def _place(spec: ModuleSpec) -> str | None:
    """The file of a module, or the folder of a package without one; None where it is built in."""
    if spec.has_location and spec.origin is not None:
        return spec.origin
    return next(iter(spec.submodule_search_locations or ()), None)


def _is_beside(spec: ModuleSpec, package: str, directory: Path) -> bool:
    """Whether a module lies in a folder itself, and not in one below it, as packages of an environment do."""
    place = _place(spec)
    if place is None:
        return False
    folder = Path(place).parent if spec.origin == place else Path(place)
    holds = {folder, folder.parent} if folder.name == package else {folder}
    return bool({each.resolve() for each in holds} & {directory.resolve()})


def _foreign(target: object, directory: Path, trust: Collection[str]) -> str | None:
    """The package of a module, class or function that is neither beside the experiment nor in a trusted package."""
    if isinstance(target, ModuleType):
        name = target.__name__
    elif inspect.isroutine(target) or inspect.isclass(target):
        name = getattr(target, "__module__", None) or ""
    else:
        return None  # an object that the module made itself
    package = name.partition(".")[0]
    if not package or package in trust:
        return None
    spec = _found(package)
    return None if spec is not None and _is_beside(spec, package, directory) else package
