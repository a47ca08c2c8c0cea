"""Reads an experiment file, and says of every problem in which line it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autotune.adapter import declared_options
from autotune.adapters import get_adapter
from autotune.arguments import names_a_folder, require
from autotune.errors import ExperimentError, MissingDependencyError
from autotune.experiment.allowed import allowed_keys
from autotune.experiment.document import compose, construct, dotted, locate, override, position
from autotune.experiment.neural_compressor import Lines, translate
from autotune.experiment.nodes import entry, put
from autotune.experiment.schema import Experiment
from autotune.recipe import RECIPE_FIELDS
from autotune.suggestion import suggestion

_WORDS = {
    "string_type": "must be text",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "dict_type": "must be keys and values",
}
"""Messages for people who write YAML, in place of pydantic's, which name Python types."""


_PLACEHOLDER = re.compile(r"<[^<>]+>")
"""The placeholder that `autotune init` writes where the user has to fill something in."""


def load_experiment(path: Path | str, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file. Nothing that it names is opened.

    The framework is imported where the file restricts an option that only its adapter knows.

    Args:
        path: The file.
        overrides: Values to put in place of the file's, each as ``key.key=value`` with the value in YAML.
        trust: Packages whose functions the file may name, beside those in its own folder.

    Raises:
        ExperimentError: The file cannot be read, or does not fit the schema; all problems at once, each with its line.
    """
    experiments = load_experiments(path, overrides, trust)
    if len(experiments) > 1:
        names = ", ".join(str(each.name) for each in experiments)
        raise ExperimentError(
            f"{path}: must have one `model` here, but `models` names {len(experiments)} ({names}). `autotune run` "
            "tunes them all"
        )
    return experiments[0]


def load_experiments(
    path: Path | str, overrides: Sequence[str] = (), trust: Sequence[str] = ()
) -> tuple[Experiment, ...]:
    """Read an experiment file that may name several models under ``models``: an experiment for each, in their order.

    They share data, target and options. Each has a workspace of its own, in the file's, under the model's name. The
    arguments are those of :func:`load_experiment`.

    Raises:
        ExperimentError: The file cannot be read, or does not fit the schema.
    """
    require("path", path, Path | str, ExperimentError)
    require("overrides", overrides, Sequence[str], ExperimentError)
    require("trust", trust, Sequence[str], ExperimentError)
    path = Path(path)
    root = compose(path)
    for each in overrides:
        override(root, each)
    lines = translate(root, position)
    _name_strategy(root)
    entries = {key.value: (key, value) for key, value in root.value}
    if "models" not in entries:
        return (_experiment(path, root, trust, lines),)
    key, models = entries["models"]
    if "model" in entries or not isinstance(models, yaml.MappingNode) or not models.value:
        raise ExperimentError(
            f"{position(key)}: `models` must have a section like `model` for each name, and no `model` beside it"
        )
    found = []
    for name, section in models.value:
        if not names_a_folder(name.value):
            raise ExperimentError(
                f"{position(name)}: models.{name.value}: a model's name must be letters, digits, `.`, `_` and `-`, "
                "since its workspace is called so"
            )
        renamed = yaml.ScalarNode("tag:yaml.org,2002:str", "model", name.start_mark, name.end_mark)
        rest = [each for each in root.value if each[0].value != "models"]
        one = yaml.MappingNode(root.tag, [(renamed, section), *rest], root.start_mark, root.end_mark)
        experiment = _experiment(path, one, trust, lines)
        experiment._name = name.value
        found.append(experiment)
    return tuple(found)


def _experiment(path: Path, root: yaml.MappingNode, trust: Sequence[str], lines: Lines) -> Experiment:
    """The experiment that a document describes."""
    try:
        document = json.dumps(construct(root))
        experiment = Experiment.model_validate_json(document, context={"directory": path.parent})
    except ValidationError as error:
        raise ExperimentError("\n".join([*lines.problems, *_problems(error, root), *lines.notes])) from None
    if lines.problems:
        raise ExperimentError("\n".join([*lines.problems, *lines.notes]))
    problems = _other_framework(experiment, root) or _untrainable(experiment, root) or _undeclared(experiment, root)
    if problems:
        raise ExperimentError("\n".join(problems))
    experiment._path = path
    experiment._trust = tuple(trust)
    experiment._notes = tuple(lines.notes)
    experiment._unfilled = tuple(_unfilled(root))
    experiment._where = lambda keys: position(locate(root, keys)[1])
    return experiment


def _unfilled(node: yaml.Node, keys: tuple[int | str, ...] = ()) -> Iterator[str]:
    """A line for each value that still reads like ``<calibration.npz>``, in the order of the file."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _unfilled(value, (*keys, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _unfilled(value, (*keys, index))
    elif _PLACEHOLDER.fullmatch(node.value):
        yield f"{position(node)}: {dotted(keys)}: {node.value} is a place to be filled in: put your own value there"


def _name_strategy(root: yaml.Node) -> None:
    """Read ``strategy: bayesian`` as ``strategy: {name: bayesian}``."""
    strategy = entry(root, "tuning", "strategy")
    if isinstance(strategy, yaml.ScalarNode) and strategy.tag.endswith(":str"):
        put(root, ("tuning", "strategy"), {"name": strategy}, strategy)


def _problems(error: ValidationError, root: yaml.Node) -> list[str]:
    """A line for each place with a problem, in the order of the file; the branches of a union share one."""
    found: dict[tuple[int, str], list[str]] = {}
    for details in error.errors(include_url=False):
        shown, node = locate(root, details["loc"])
        place, message = ": ".join(filter(None, (position(node), dotted(shown)))), _message(details)
        if details["type"] == "missing":  # at the place of the section that misses it, as others may be
            place, message = f"{place}: {message}", ""
        messages = found.setdefault((node.start_mark.line, place), [])
        if message not in messages:
            messages.append(message)
    lines = ((line, ": ".join(filter(None, (place, ", or ".join(texts))))) for (line, place), texts in found.items())
    return [text for _, text in sorted(lines, key=itemgetter(0))]


def _other_framework(experiment: Experiment, root: yaml.Node) -> list[str]:
    """A line where the file names a framework that is none of its runtimes."""
    framework, runtimes = experiment.model.framework, experiment.runtimes
    if runtimes is None or "framework" not in experiment.model.model_fields_set or framework in runtimes:
        return []
    shown, node = locate(root, ("model", "framework"))
    return [
        f"{position(node)}: {dotted(shown)}: must be one of `runtimes` ({', '.join(runtimes)}) where both are "
        f"given, but got {json.dumps(framework)}. Leave it out: every runtime reads the model itself"
    ]


def _untrainable(experiment: Experiment, root: yaml.Node) -> list[str]:
    """A line where a file is to be trained."""
    if experiment.quantization.train is None or experiment.model.path is None:
        return []
    shown, node = locate(root, ("quantization", "train"))
    return [
        f"{position(node)}: {dotted(shown)}: needs a model that can be trained, in `model.function`, but "
        "`model.path` names a file, which holds what was exported"
    ]


def _undeclared(experiment: Experiment, root: yaml.Node) -> list[str]:
    """A line for each option that no adapter of the run declares, or none with that value."""
    given = experiment.quantization.options
    if not given:  # no reason to import the framework now
        return []
    declared = _declared(experiment.runtimes or (experiment.model.framework,))
    problems = []
    for name, values in given.items():
        shown, node = locate(root, ("quantization", "recipes", name))
        place = f"{position(node)}: {dotted(shown)}"
        if name not in declared:
            known = [*RECIPE_FIELDS, *declared]
            problems.append(f"{place}: unknown key {name!r}{suggestion(name, known)}. Allowed here: {', '.join(known)}")
            continue
        allowed = declared[name]
        for value in values or ():
            if value not in allowed:
                near = suggestion(str(value), allowed)
                problems.append(f"{place}: must be one of {', '.join(allowed)}, but got {json.dumps(value)}{near}")
    return problems


def _declared(frameworks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each option that one of these frameworks declares."""
    declared: dict[str, tuple[str, ...]] = {}
    for framework in frameworks:
        try:
            options = declared_options(get_adapter(framework))
        except MissingDependencyError:
            if len(frameworks) == 1:
                raise
            continue  # a run leaves it out, and says so
        for option in options:
            declared[option.name] = (*declared.get(option.name, ()), *option.values)
    return declared


def _message(details: ErrorDetails) -> str:
    kind, loc = details["type"], details["loc"]
    if kind == "extra_forbidden":
        known = allowed_keys(Experiment, loc[:-1])
        return f"unknown key {loc[-1]!r}{suggestion(str(loc[-1]), known)}. Allowed here: {', '.join(known)}"
    if kind == "missing":
        return f"key {loc[-1]!r} is missing"
    value = details["input"]
    text = _WORDS.get(kind) or details["msg"].replace("Input should be", "must be")
    if isinstance(value, (Mapping, BaseModel)) or kind == "broken_rule":
        return text
    return f"{text}, but got {json.dumps(value)}"
