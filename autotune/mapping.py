"""Carries a config from one graph to another: by names where they are the same, else by structure and repeated blocks.

A model that is trained again every week keeps its graph, mostly. An exporter of another version renames nodes, a deeper
variant repeats a block more often: what was found for the old graph is still the best guess for the new one.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.config import FP32, OpConfig, QuantizationConfig
from autotune.notes import counted
from autotune.recipe import Recipe
from autotune.space import TuningSpace

_DIGITS = re.compile(r"\d+")
_PARTS = re.compile(r"[/.:]+")
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Ops:
    """The ops of a graph, in its order.

    Attributes:
        types: The type of each op by its name.
        readers: By op, the ops that read its output; empty where that is not known.
    """

    types: Mapping[str, str]
    readers: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def role(self, name: str, *, with_readers: bool) -> tuple[str, ...]:
        """The role of an op in its graph: its type, and where asked for the types of its readers."""
        if not with_readers:
            return (self.types[name],)
        readers = sorted(self.types.get(reader, "") for reader in self.readers.get(name, ()))
        return (self.types[name], *readers)


@dataclass(frozen=True, kw_only=True)
class MappedConfig:
    """A config for another graph.

    Attributes:
        config: The config.
        renamed: How many ops took the choice of one with another name.
        repeated: How many ops took the choice of their like in other blocks.
        unmapped: Ops of the new graph without a counterpart: they stay fp32.
        lost: Quantized ops of the stored config without a counterpart.
        changed: Ops and recipe fields whose choice is not offered here, so that they take the nearest one.
    """

    config: QuantizationConfig
    renamed: int = 0
    repeated: int = 0
    unmapped: Sequence[str] = ()
    lost: Sequence[str] = ()
    changed: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        """Lines for the user on what could not be carried over as it was."""
        lines = []
        if self.renamed or self.repeated:
            lines.append(
                f"{counted(self.renamed, 'op')} mapped by the structure of the graph, "
                f"{self.repeated} by repeated blocks, "
                "since their names differ"
            )
        if self.unmapped:
            lines.append(
                f"{counted(len(self.unmapped), 'op')} without a counterpart, in fp32 here: {_listed(self.unmapped)}"
            )
        if self.lost:
            lines.append(
                f"{counted(len(self.lost), 'quantized op')} without a place in this model: {_listed(self.lost)}"
            )
        if self.changed:
            lines.append(
                f"{counted(len(self.changed), 'choice')} not offered here, so that the nearest is taken: "
                f"{_listed(self.changed)}"
            )
        return lines


def map_config(config: QuantizationConfig, known: Ops | None, space: TuningSpace, ops: Ops) -> MappedConfig:
    """The config for the ops of a space.

    Names come first, where the types agree; then names whose last parts agree; then ops in the same place of a sequence
    of types; then ops whose names differ in numbers alone, by the choice that most of them have; then, in the same way,
    ops that are read by ops of the same types.

    Args:
        config: The stored config.
        known: The graph that it was found for; None where nothing but the config is known, so that its fp32 ops have no
            names.
        space: The choices of the new graph.
        ops: The new graph, whose ops are those of the space.
    """
    old = known or Ops(types=dict.fromkeys(config.ops, ""))
    pairs = _by_name(old, ops)
    same = len(pairs)
    if known is None and same == len(config.ops):
        # An op that is not named was fp32: all names are there, and nothing is to be guessed.
        chosen = {new: config[name] for new, name in pairs.items()}
        return _fitted(config, space, chosen, MappedConfig(config=config))
    pairs |= _by_last_parts(old, ops, pairs)
    if known is not None:
        for with_readers in (True, False) if known.readers and ops.readers else (False,):
            pairs |= _by_sequence(old, ops, pairs, with_readers=with_readers)
    chosen = {new: config[name] for new, name in pairs.items()}
    repeated = _by_repetition(config, old, ops, set(pairs))
    chosen |= repeated
    if known is not None:
        placed_alike = _by_place(chosen, ops)
        chosen |= placed_alike
        repeated |= placed_alike
    placed = set(pairs.values())
    found = MappedConfig(
        config=config,
        renamed=len(pairs) - same,
        repeated=len(repeated),
        unmapped=tuple(name for name in ops.types if name not in chosen) if known is not None else (),
        lost=tuple(name for name in config.ops if name not in placed),
    )
    return _fitted(config, space, chosen, found)


def _by_name(old: Ops, new: Ops) -> dict[str, str]:
    return {name: name for name, kind in new.types.items() if name in old.types and old.types[name] in ("", kind)}


def _by_last_parts(old: Ops, new: Ops, pairs: Mapping[str, str]) -> dict[str, str]:
    """Ops whose names end alike, as where an exporter puts a prefix before all of them; only where one is meant."""
    taken = set(pairs.values())
    free_old = {tuple(_PARTS.split(name.strip("/"))): name for name in old.types if name not in taken}
    free_new = {tuple(_PARTS.split(name.strip("/"))): name for name in new.types if name not in pairs}
    candidates: defaultdict[str, list[str]] = defaultdict(list)
    for parts, name in free_new.items():
        for start in range(len(parts)):
            longer = free_old.get(parts[start:])
            if longer is not None:
                candidates[name].append(longer)
                break
    for parts, name in free_old.items():
        for start in range(1, len(parts)):
            shorter = free_new.get(parts[start:])
            if shorter is not None:
                candidates[shorter].append(name)
                break
    sole = {name: found[0] for name, found in candidates.items() if len(set(found)) == 1}
    uses = Counter(sole.values())
    return {
        name: found
        for name, found in sole.items()
        if uses[found] == 1 and old.types[found] in ("", new.types[name]) and len(_PARTS.split(found.strip("/"))) > 1
    }


def _by_sequence(old: Ops, new: Ops, pairs: Mapping[str, str], *, with_readers: bool) -> dict[str, str]:
    """Ops in the same place of both sequences, between those that are mapped already."""
    taken = set(pairs.values())
    left, right = list(old.types), list(new.types)
    marks: dict[str, object] = {name: name for name in taken}
    one = [marks.get(name) or old.role(name, with_readers=with_readers) for name in left]
    other = [pairs.get(name) or new.role(name, with_readers=with_readers) for name in right]
    matched = ((left[first], right[second]) for first, second in _common(one, other))
    return {now: was for was, now in matched if now not in pairs and was not in taken}


def _common(one: Sequence[object], other: Sequence[object]) -> list[tuple[int, int]]:
    """The positions of a longest common subsequence in both sequences."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for first in range(len(one) - 1, -1, -1):
        row, below = lengths[first], lengths[first + 1]
        for second in range(len(other) - 1, -1, -1):
            equal = one[first] == other[second]
            row[second] = below[second + 1] + 1 if equal else max(below[second], row[second + 1])
    found: list[tuple[int, int]] = []
    first = second = 0
    while first < len(one) and second < len(other):
        if one[first] == other[second]:
            found.append((first, second))
            first, second = first + 1, second + 1
        elif lengths[first + 1][second] >= lengths[first][second + 1]:
            first += 1
        else:
            second += 1
    return found


def _by_repetition(config: QuantizationConfig, old: Ops, new: Ops, mapped: Iterable[str]) -> dict[str, OpConfig]:
    """For ops without a counterpart, what most ops chose whose names and types are theirs but for numbers."""
    votes: defaultdict[tuple[str, str], Counter[OpConfig]] = defaultdict(Counter)
    for name, kind in old.types.items():
        votes[_DIGITS.sub("#", name), kind][config[name]] += 1
    found = {}
    for name, kind in new.types.items():
        pattern = _DIGITS.sub("#", name)
        own = votes.get((pattern, kind)) or votes.get((pattern, ""))
        if name not in mapped and own and "#" in pattern:
            found[name] = own.most_common(1)[0][0]
    return found


def _by_place(chosen: Mapping[str, OpConfig], new: Ops) -> dict[str, OpConfig]:
    """For ops that are left, what most ops chose that stand in the same place of other blocks, whatever their names.

    Places are the same where the types agree, those of the readers, and those of their readers; at the end of a graph
    the readers alone. Two ops at least must stand there: one alone is no repetition.
    """
    found: dict[str, OpConfig] = {}
    for steps in (2, 1):
        votes: defaultdict[tuple[Any, ...], Counter[OpConfig]] = defaultdict(Counter)
        for name, choice in chosen.items():
            votes[_place(name, new, steps)][choice] += 1
        for name in new.types:
            own = votes.get(_place(name, new, steps), Counter())
            if name not in chosen and name not in found and new.readers.get(name) and own.total() > 1:
                found[name] = own.most_common(1)[0][0]
    return found


def _place(name: str, ops: Ops, steps: int) -> tuple[Any, ...]:
    """The type of an op and the places of its readers, so many steps on."""
    readers = sorted(_place(reader, ops, steps - 1) for reader in ops.readers.get(name, ())) if steps else []
    return (ops.types.get(name, ""), *readers)


def _fitted(
    config: QuantizationConfig, space: TuningSpace, chosen: Mapping[str, OpConfig], found: MappedConfig
) -> MappedConfig:
    """The choices as the space offers them."""
    ops = {op.name: space.nearest(op.name, chosen.get(op.name, FP32)) for op in space.ops}
    recipe, dropped = _recipe(config.recipe, space)
    moved = [name for name, choice in chosen.items() if ops[name] != choice]
    return dataclasses.replace(
        found,
        config=QuantizationConfig(ops=ops, recipe=recipe),
        changed=(*moved, *(f"recipe.{each}" for each in dropped)),
    )


def _recipe(recipe: Recipe, space: TuningSpace) -> tuple[Recipe, list[str]]:
    """The recipe with the values that the space offers, and the names of those that it does not."""
    offered, preferred = space.recipe, space.recipe.preferred
    values = {name: offered.value(recipe, name) for name in offered.names}
    dropped = [name for name, value in values.items() if value not in offered[name]]
    dropped += [name for name in recipe.options if name not in offered.by_name]
    kept = {name: value if value in offered[name] else offered.value(preferred, name) for name, value in values.items()}
    return offered.made(kept), dropped


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
