"""Edits of a YAML tree that keep the line of every value, so that messages still point into the user's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml


def entry(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """The value below a chain of keys; None where there is none."""
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def taken(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """A key and its value, which are taken out of a mapping; None where it has no such key."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for index, (name, value) in enumerate(node.value):
        if name.value == key:
            del node.value[index]
            return name, value
    return None


def items(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Keys and values of a mapping; nothing of what is none."""
    for name, value in list(node.value) if isinstance(node, yaml.MappingNode) else []:
        yield name.value, value


def texts(node: yaml.Node | None) -> list[str]:
    """The words of a scalar, which commas may part, or of a list."""
    if isinstance(node, yaml.SequenceNode):
        return [word for each in node.value for word in texts(each)]
    if not isinstance(node, yaml.ScalarNode):
        return []
    return [word.strip() for word in node.value.split(",") if word.strip()]


def put(root: yaml.Node, keys: Sequence[str], value: Any, near: yaml.Node) -> None:
    """Set a value below a chain of keys; what is new has the line of ``near``.

    Args:
        root: The mapping.
        keys: The chain. Mappings that are missing on the way are made.
        value: A node, or text, a number, a list or a dict to make one of.
        near: The node that the value comes from.
    """
    assert isinstance(root, yaml.MappingNode)
    key, rest = keys[0], keys[1:]
    below = entry(root, key)
    if rest and isinstance(below, yaml.MappingNode):
        put(below, rest, value, near)
        return
    if below is not None:
        taken(root, key)
    made = value if isinstance(value, yaml.Node) else made_of(_nested(rest, value), near)
    if rest and isinstance(value, yaml.Node):
        made = made_of({}, near)
        put(made, rest, value, near)
    root.value.append((made_of(key, near), made))


def made_of(value: Any, near: yaml.Node) -> yaml.Node:
    """A node with the line of another one."""
    start, end = near.start_mark, near.end_mark
    if isinstance(value, yaml.Node):
        return value
    if isinstance(value, Mapping):
        pairs = [(made_of(name, near), made_of(each, near)) for name, each in value.items()]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, start, end)
    if isinstance(value, (list, tuple)):
        return yaml.SequenceNode("tag:yaml.org,2002:seq", [made_of(each, near) for each in value], start, end)
    kind = {bool: "bool", int: "int", float: "float"}.get(type(value), "str")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text, start, end)


def _nested(keys: Sequence[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value
