"""Reads an experiment file, and says of every problem in which line it is."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autotune.adapter import declared_options
from autotune.adapters import get_adapter
from autotune.arguments import require
from autotune.errors import ExperimentError, MissingDependencyError
from autotune.experiment.allowed import allowed_keys
from autotune.experiment.neural_compressor import Lines, translate
from autotune.experiment.nodes import entry, put
from autotune.experiment.schema import Experiment
from autotune.recipe import RECIPE_FIELDS
from autotune.regular_file import require_regular
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


_LARGEST_BYTES = 1_000_000
"""Bytes of the largest file; the longest that was seen has 20,000. Without a limit a comment of 50 MB takes minutes."""

_MOST_NODES = 50_000
_DEEPEST = 50

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
"""The placeholder that `autotune init` writes where the user has to fill something in."""


class _Loader(yaml.SafeLoader):
    """YAML as people write it today: 1e-3 is a number, and a date is no type of its own."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|nan|NaN))$"
    ),
    list("-+0123456789."),
)


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
    root = _compose(path)
    for override in overrides:
        _override(root, override)
    lines = translate(root, _position)
    _name_strategy(root)
    entries = {key.value: (key, value) for key, value in root.value}
    if "models" not in entries:
        return (_experiment(path, root, trust, lines),)
    key, models = entries["models"]
    if "model" in entries or not isinstance(models, yaml.MappingNode) or not models.value:
        raise ExperimentError(
            f"{_position(key)}: `models` must have a section like `model` for each name, and no `model` beside it"
        )
    found = []
    for name, section in models.value:
        if not _NAME.fullmatch(name.value):
            raise ExperimentError(
                f"{_position(name)}: models.{name.value}: a model's name must be letters, digits, `.`, `_` and `-`, "
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
        document = json.dumps(_construct(root))
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
    experiment._where = lambda keys: _position(_locate(root, keys)[1])
    return experiment


def _compose(path: Path) -> yaml.MappingNode:
    require_regular(path, "An experiment file", ExperimentError)
    try:
        if path.is_file() and (size := path.stat().st_size) > _LARGEST_BYTES:
            raise ExperimentError(
                f"An experiment file must have at most {_LARGEST_BYTES:,} bytes, but {path} has {size:,}. Data belong "
                "into files of their own"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExperimentError(f"There is no experiment file {path}. `autotune init MODEL` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"The experiment file {path} cannot be read: {error}") from None
    root = _parse(text, str(path))
    if not isinstance(root, yaml.MappingNode):
        raise ExperimentError(
            f"{path}: must hold keys and values, such as `model:`. `autotune init MODEL` writes a file"
        )
    _check_tree(root)
    return root


def _parse(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML does not take, NUL for example
        raise ExperimentError(f"{name}: is not YAML: {error}") from None
    loader.name = name
    try:
        node: yaml.Node | None = loader.get_single_node()
    except RecursionError:
        raise ExperimentError(f"{name}: is nested too deeply; no key is more than {_DEEPEST} deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        raise ExperimentError(f"{where}: is not YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{name}: is not YAML: {error}") from None
    finally:
        loader.dispose()
    return node


def _check_tree(root: yaml.Node, above: tuple[yaml.Node, ...] = (), seen_nodes: Iterator[int] | None = None) -> None:
    """Resolve merge keys, and refuse what a reader would not see.

    That is: keys given twice, of which the last would win, keys that are no text, an alias in its own anchor, aliases
    that multiply to more than any experiment holds, and deep nesting.
    """
    counter = itertools.count() if seen_nodes is None else seen_nodes
    if next(counter) >= _MOST_NODES:
        raise ExperimentError(
            f"{_position(root)}: an experiment must have at most {_MOST_NODES:,} values, aliases included, but has more"
        )
    if len(above) > _DEEPEST:
        raise ExperimentError(f"{_position(root)}: is nested too deeply; no key is more than {_DEEPEST} deep")
    if any(root is node for node in above):
        raise ExperimentError(f"{_position(root)}: an alias must not stand inside of what it names")
    inside = (*above, root)
    if isinstance(root, yaml.SequenceNode):
        for value in root.value:
            _check_tree(value, inside, counter)
    if not isinstance(root, yaml.MappingNode):
        return
    seen: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ExperimentError(f"{_position(key)}: a key must be a name")
        if key.value in seen:
            first = seen[key.value].start_mark.line + 1
            raise ExperimentError(f"{_position(key)}: key {key.value!r} is given twice; the first is in line {first}")
        seen[key.value] = key
        _check_tree(value, inside, counter)
    if any(key.tag == "tag:yaml.org,2002:merge" for key in seen.values()):
        loader = _Loader("")
        try:
            loader.flatten_mapping(root)
        except yaml.MarkedYAMLError as error:
            raise ExperimentError(f"{_position(root)}: {error.problem}") from None
        finally:
            loader.dispose()
        root.value = list({key.value: (key, value) for key, value in root.value}.values())


def _construct(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        if isinstance(node, yaml.MappingNode):
            return {key.value: _construct(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [_construct(value) for value in node.value]
        value = loader.construct_object(node)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ExperimentError(
            f"{_position(node)}: must be text, a number, true, false or null, but {node.tag} is a "
            f"{type(value).__name__}"
        )
    except ValueError as error:  # more digits than a number may have, or what a tag such as !!int refuses
        raise ExperimentError(f"{_position(node)}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{_position(node)}: {getattr(error, 'problem', error)}") from None
    finally:
        loader.dispose()


def _unfilled(node: yaml.Node, keys: tuple[int | str, ...] = ()) -> Iterator[str]:
    """A line for each value that still reads like ``<calibration.npz>``, in the order of the file."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _unfilled(value, (*keys, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _unfilled(value, (*keys, index))
    elif _PLACEHOLDER.fullmatch(node.value):
        yield f"{_position(node)}: {_dotted(keys)}: {node.value} is a place to be filled in: put your own value there"


def _override(root: yaml.MappingNode, override: str) -> None:
    """Put a node in the place of another, so that errors in it are found like those of the file."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    name = f"--set {override}"
    if not equals or not all(keys):
        raise ExperimentError(f"{name}: must read like `tuning.exit_policy.max_trials=20`")
    value = _parse(text, name) or yaml.ScalarNode("tag:yaml.org,2002:null", "null", _mark(name), _mark(name))
    _check_tree(value)
    node: yaml.Node = root
    for depth, key in enumerate(keys):
        if not isinstance(node, yaml.MappingNode):
            raise ExperimentError(f"{name}: {'.'.join(keys[:depth])} has no keys")
        last = depth == len(keys) - 1
        entry = next((entry for entry in node.value if entry[0].value == key), None)
        if entry is None or last:
            new = value if last else yaml.MappingNode("tag:yaml.org,2002:map", [], _mark(name), _mark(name))
            place = len(node.value) if entry is None else node.value.index(entry)
            node.value[place : place + 1] = [
                (yaml.ScalarNode("tag:yaml.org,2002:str", key, _mark(name), _mark(name)), new)
            ]
            node = new
        else:
            node = entry[1]


def _name_strategy(root: yaml.Node) -> None:
    """Read ``strategy: bayesian`` as ``strategy: {name: bayesian}``."""
    strategy = entry(root, "tuning", "strategy")
    if isinstance(strategy, yaml.ScalarNode) and strategy.tag.endswith(":str"):
        put(root, ("tuning", "strategy"), {"name": strategy}, strategy)


def _mark(name: str) -> yaml.Mark:
    return yaml.Mark(name, 0, 0, 0, "", 0)


def _position(node: yaml.Node) -> str:
    mark = node.start_mark
    return mark.name if mark.name.startswith("--set ") else f"{mark.name}:{mark.line + 1}"


def _locate(node: yaml.Node, loc: Sequence[int | str]) -> tuple[list[int | str], yaml.Node]:
    """The deepest node on the way to ``loc``, and how far that way goes; for a key, the key's own node."""
    shown: list[int | str] = []
    marked: yaml.Node = node
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            entry = next((entry for entry in node.value if entry[0].value == part), None)
            if entry is not None:
                marked, node = entry
                shown.append(part)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            marked = node = node.value[part]
            shown.append(part)
    return shown, marked


def _problems(error: ValidationError, root: yaml.Node) -> list[str]:
    """A line for each place with a problem, in the order of the file; the branches of a union share one."""
    found: dict[tuple[int, str], list[str]] = {}
    for details in error.errors(include_url=False):
        shown, node = _locate(root, details["loc"])
        place, message = ": ".join(filter(None, (_position(node), _dotted(shown)))), _message(details)
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
    shown, node = _locate(root, ("model", "framework"))
    return [
        f"{_position(node)}: {_dotted(shown)}: must be one of `runtimes` ({', '.join(runtimes)}) where both are "
        f"given, but got {json.dumps(framework)}. Leave it out: every runtime reads the model itself"
    ]


def _untrainable(experiment: Experiment, root: yaml.Node) -> list[str]:
    """A line where a file is to be trained."""
    if experiment.quantization.train is None or experiment.model.path is None:
        return []
    shown, node = _locate(root, ("quantization", "train"))
    return [
        f"{_position(node)}: {_dotted(shown)}: needs a model that can be trained, in `model.function`, but "
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
        shown, node = _locate(root, ("quantization", "recipes", name))
        place = f"{_position(node)}: {_dotted(shown)}"
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


def _dotted(parts: Sequence[int | str]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


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
