"""The YAML document of an experiment file: its nodes with their places, and plain values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from autotune.errors import ExperimentError
from autotune.regular_file import require_regular

_LARGEST_BYTES = 1_000_000
"""Bytes of the largest file; the longest that was seen has 20,000. Without a limit a comment of 50 MB takes minutes."""


_MOST_NODES = 50_000


_DEEPEST = 50


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


def compose(path: Path) -> yaml.MappingNode:
    """Read a file into nodes.

    Raises:
        ExperimentError: It cannot be read, is too large, or holds no keys and values.
    """
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
            f"{position(root)}: an experiment must have at most {_MOST_NODES:,} values, aliases included, but has more"
        )
    if len(above) > _DEEPEST:
        raise ExperimentError(f"{position(root)}: is nested too deeply; no key is more than {_DEEPEST} deep")
    if any(root is node for node in above):
        raise ExperimentError(f"{position(root)}: an alias must not stand inside of what it names")
    inside = (*above, root)
    if isinstance(root, yaml.SequenceNode):
        for value in root.value:
            _check_tree(value, inside, counter)
    if not isinstance(root, yaml.MappingNode):
        return
    seen: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ExperimentError(f"{position(key)}: a key must be a name")
        if key.value in seen:
            first = seen[key.value].start_mark.line + 1
            raise ExperimentError(f"{position(key)}: key {key.value!r} is given twice; the first is in line {first}")
        seen[key.value] = key
        _check_tree(value, inside, counter)
    if any(key.tag == "tag:yaml.org,2002:merge" for key in seen.values()):
        loader = _Loader("")
        try:
            loader.flatten_mapping(root)
        except yaml.MarkedYAMLError as error:
            raise ExperimentError(f"{position(root)}: {error.problem}") from None
        finally:
            loader.dispose()
        root.value = list({key.value: (key, value) for key, value in root.value}.values())


def construct(node: yaml.Node) -> Any:
    """The plain values of a node: dicts, lists, text, numbers, booleans and None.

    Raises:
        ExperimentError: A value is none of these.
    """
    loader = _Loader("")
    try:
        if isinstance(node, yaml.MappingNode):
            return {key.value: construct(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [construct(value) for value in node.value]
        value = loader.construct_object(node)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ExperimentError(
            f"{position(node)}: must be text, a number, true, false or null, but {node.tag} is a {type(value).__name__}"
        )
    except ValueError as error:  # more digits than a number may have, or what a tag such as !!int refuses
        raise ExperimentError(f"{position(node)}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{position(node)}: {getattr(error, 'problem', error)}") from None
    finally:
        loader.dispose()


def override(root: yaml.MappingNode, override: str) -> None:
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


def _mark(name: str) -> yaml.Mark:
    return yaml.Mark(name, 0, 0, 0, "", 0)


def position(node: yaml.Node) -> str:
    """The place of a node: ``FILE:LINE``, or the override that it comes from."""
    mark = node.start_mark
    return mark.name if mark.name.startswith("--set ") else f"{mark.name}:{mark.line + 1}"


def locate(node: yaml.Node, loc: Sequence[int | str]) -> tuple[list[int | str], yaml.Node]:
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


def dotted(parts: Sequence[int | str]) -> str:
    """The keys on the way to a value as one name, ``a.b[0]``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
