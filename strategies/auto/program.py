"""Which ops to leave in fp32: the integer program behind ``auto``, solved by minimum cuts.

The program is: least cost, where the cost of an op in fp32 and those of conversions between neighbours add up, while
the losses of the ops in int8 keep to a budget. Without the budget it is a minimum cut (Picard and Ratliff, Networks 5,
1975). With it, a Lagrange multiplier prices the loss, and each price gives a cut that is optimal for its own loss; a
local search spends what the budget leaves (Fisher, Management Science 27, 1981). At 500 ops that takes milliseconds
where a branch-and-bound solver takes a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.strategies.auto.prediction import Vector

Flags: TypeAlias = npt.NDArray[np.bool_]

_CAPACITY = 2**28
"""Sum of the finite capacities: flows are 32-bit integers."""
_UNCUT = 2**30
_CUTS = 12
"""Prices of the loss that are tried for one budget, at most."""
_STEPS = 12
_SWAPPED = 24
"""Local search: steps, and how many ops on either side are looked at in pairs."""


class Conversions:
    """The cost of converting between int8 and fp32. One conversion of an output serves all its readers.

    Args:
        ops: How many there are.
        crossing: Cost of a conversion after an op, by its position.
        readers: The ops that read each op's output, by position.
    """

    def __init__(self, ops: int, crossing: Mapping[int, float], readers: Mapping[int, Sequence[int]]) -> None:
        edges = [
            (cost, (op, *others))
            for op, cost in crossing.items()
            if cost > 0 and (others := sorted(set(readers.get(op, ())) - {op}))
        ]
        self.costs = np.array([cost for cost, _ in edges])
        self.members = [members for _, members in edges]
        rows = [row for row, members in enumerate(self.members) for _ in members]
        columns = [op for members in self.members for op in members]
        from scipy.sparse import csr_array  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait

        self._incidence = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(edges), ops))
        self._sizes = np.array([len(members) for members in self.members])

    def cost(self, choices: Flags) -> Vector:
        """The conversion cost of each choice; ``choices`` (p, n), true for fp32."""
        fp32 = self._incidence @ choices.T.astype(float)
        mixed = (fp32 > 0) & (fp32 < self._sizes[:, None])
        return np.asarray(self.costs @ mixed, dtype=float).reshape(len(choices))

    def of_flips(self, choice: Flags) -> Vector:
        """By how much each op's change of precision alone changes the cost, (n,)."""
        fp32 = self._incidence @ choice.astype(float)

        def mixed(count: Vector) -> Vector:
            return self.costs * ((count > 0) & (count < self._sizes))

        now = mixed(fp32)
        to_fp32, to_int8 = (
            np.asarray(self._incidence.T @ (mixed(fp32 + step) - now), dtype=float) for step in (1.0, -1.0)
        )
        return np.where(choice, to_int8, to_fp32)


class Program:
    """Least cost within budgets of loss.

    Args:
        gain: Cost that each op adds when it is in fp32, (n,); negative for ops that are faster there.
        loss: Loss that each op causes when it is in int8, (n,), not negative.
        conversions: Conversions between the ops.
    """

    def __init__(self, *, gain: Vector, loss: Vector, conversions: Conversions) -> None:
        self._gain, self._loss, self._conversions = gain, loss, conversions
        self._network = _Network(len(gain), conversions)
        self._cuts: list[tuple[float, float, Flags]] = []

    def cost(self, choices: Flags) -> Vector:
        """Cost beyond that of the config without any op in fp32; (p, n) to (p,)."""
        return choices @ self._gain + self._conversions.cost(choices)

    def solve(self, budgets: Sequence[float]) -> list[Flags]:
        """A choice for each budget, true for fp32, of nearly the least cost; none where no choice keeps to it."""
        if not len(self._gain):
            return []
        self._cuts = [self._cut(0.0), self._cut(None)]
        found = [self._within(budget) for budget in budgets]
        return [choice for choice in found if choice is not None]

    def _cut(self, price: float | None) -> tuple[float, float, Flags]:
        """Loss, cost, and the choice that is best where a unit of loss costs ``price``; None: the least loss."""
        if price is None:
            choice = (self._loss > 0) | (self._gain < 0)
        else:
            choice = self._network.cut(self._gain - price * self._loss)
        return float(self._loss @ ~choice), float(self.cost(choice[None])[0]), choice

    def _within(self, budget: float) -> Flags | None:
        budget += 1e-9 * abs(budget)  # the same losses in another order add up to a little more
        for _ in range(_CUTS):
            inside = [cut for cut in self._cuts if cut[0] <= budget]
            if not inside:
                return None
            kept = min(inside, key=lambda cut: cut[1])
            beyond = min(
                (cut for cut in self._cuts if cut[0] > budget and cut[1] < kept[1]),
                key=lambda cut: cut[0],
                default=None,
            )
            if beyond is None:
                break
            new = self._cut((kept[1] - beyond[1]) / (beyond[0] - kept[0]))
            if any((new[2] == cut[2]).all() for cut in self._cuts):
                break
            self._cuts.append(new)
        return self._improved(min(inside, key=lambda cut: cut[1])[2], budget)

    def _improved(self, choice: Flags, budget: float) -> Flags:
        """The choice after single ops and pairs have changed sides for as long as that lowers the cost."""
        cost = float(self.cost(choice[None])[0])
        for _ in range(_STEPS):
            changes = self._neighbours(choice, budget)
            if not len(changes):
                break
            costs = self.cost(changes)
            best = int(np.argmin(costs))
            if costs[best] >= cost - 1e-12:
                break
            choice, cost = changes[best], float(costs[best])
        return choice

    def _neighbours(self, choice: Flags, budget: float) -> Flags:
        """The most promising choices within the budget that differ in one op, or in one on either side."""
        slack = budget - float(self._loss @ ~choice)
        change = np.where(choice, -self._gain, self._gain) + self._conversions.of_flips(choice)
        spent = np.where(choice, self._loss, -self._loss)
        order = np.argsort(change, kind="stable")
        singles = [(op,) for op in order[:_SWAPPED] if change[op] < 0 and spent[op] <= slack]
        back, away = order[choice[order]][:_SWAPPED], order[~choice[order]][:_SWAPPED]
        fits = (change[back][:, None] + change[away][None] < 0) & (spent[back][:, None] + spent[away][None] <= slack)
        pairs = [(back[i], away[j]) for i, j in np.argwhere(fits)]
        result = np.repeat(choice[None], len(singles) + len(pairs), axis=0)
        for row, ops in zip(result, (*singles, *pairs), strict=True):
            row[list(ops)] ^= True
        return result


class _Network:
    """The ops as nodes between a source (fp32) and a sink (int8)."""

    def __init__(self, ops: int, conversions: Conversions) -> None:
        source, sink, nodes = ops, ops + 1, ops + 2
        every = np.arange(ops)
        starts = [np.full(ops, source), every]
        ends = [every, np.full(ops, sink)]
        fixed: list[tuple[int, int, float]] = []
        for cost, members in zip(conversions.costs, conversions.members, strict=True):
            if len(members) == 2:
                fixed += [(*members, cost), (*members[::-1], cost)]
                continue
            # Cut between the two extra nodes where some members are on one side and some on the other.
            some, every_one = nodes, nodes + 1
            nodes += 2
            fixed += [(op, some, np.inf) for op in members] + [(every_one, op, np.inf) for op in members]
            fixed.append((some, every_one, cost))
        self._ops, self._source, self._sink, self._nodes = ops, source, sink, nodes
        self._starts = np.concatenate([*starts, np.array([start for start, _, _ in fixed], dtype=int)])
        self._ends = np.concatenate([*ends, np.array([end for _, end, _ in fixed], dtype=int)])
        self._fixed = np.array([cost for *_, cost in fixed])

    def cut(self, weights: Vector) -> Flags:
        """The ops whose side is fp32 when being there costs ``weights``, (n,), and conversions what they cost."""
        if not len(self._fixed):
            return weights < 0
        capacities = np.concatenate([np.maximum(-weights, 0), np.maximum(weights, 0), self._fixed])
        finite = np.isfinite(capacities)
        total = float(capacities[finite].sum()) or 1.0
        rounded = np.full(len(capacities), _UNCUT, dtype=np.int32)
        rounded[finite] = capacities[finite] * (_CAPACITY / total)
        shape = (self._nodes, self._nodes)
        from scipy.sparse import csr_array  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow  # noqa: PLC0415  as above

        graph = csr_array((rounded, (self._starts, self._ends)), shape=shape)
        left = csr_array(graph - maximum_flow(graph, self._source, self._sink).flow)
        reached = breadth_first_order(left.maximum(0), self._source, return_predecessors=False)
        side = np.zeros(self._nodes, dtype=bool)
        side[reached] = True
        return side[: self._ops]
