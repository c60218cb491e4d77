"""Growing regions: connected, convex sets of items that become one node.

A set is convex if no path leaves it and comes back: otherwise its node would need its own output. Items
are taken in execution order, and each value remembers which regions it was reached from through the
outside ("taint"); an item never joins a region that taints one of its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from sparsec.backends.cpu.assemble import Region, region_of
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import position


def grow_regions(
    scene: Scene, items: Sequence[Item], wanted: Callable[[Item], bool]
) -> list[Region]:
    """Return the maximal regions that hold a wanted item, in execution order."""
    growing = _Growing()
    last = {item.nodes[-1]: item for item in items}
    by_position = {position(scene, item): item for item in items}
    inner = {node for item in items for node in item.nodes} - set(last)
    for node, where in scene.order.items():
        if where in by_position:
            growing.place(by_position[where])
        elif node not in inner:
            growing.pass_by(node)
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: position(scene, item)):
        groups.setdefault(growing.region_of_item(item), []).append(item)
    return [region_of(group) for group in groups.values() if any(map(wanted, group))]


def trimmed(
    region: Region, wanted: Callable[[Item], bool], *, front: bool = True, back: bool = True
) -> Region:
    """Return the region without the unwanted items at its borders: ONNX Runtime may keep those.

    Parameters
    ----------
    front, back : bool
        Which borders: items that read nothing of the region, items that nothing in it reads.
    """
    items = list(region.items)
    while True:
        made = {item.output: item for item in items}
        read = {value for item in items for value in item.inputs if value is not None}
        border = [
            item
            for item in items
            if not wanted(item)
            and (
                (back and item.output not in read)
                or (front and not any(v in made for v in item.inputs if v is not None))
            )
        ]
        if not border:
            return region_of(items)
        items = [item for item in items if item not in border]


class _Growing:
    """Regions by number; merged ones point at each other (union-find)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._kinds: list[int] = []
        self._region: dict[ir.Value, int] = {}
        self._taint: dict[ir.Value, set[int]] = {}
        self._region_taint: list[set[int]] = []
        self._item: dict[Item, int] = {}

    def region_of_item(self, item: Item) -> int:
        return self._find(self._item[item])

    def pass_by(self, node: ir.Node) -> None:
        """Note a node that is in no region."""
        taint = self._outside(node.inputs)
        for output in node.outputs:
            self._taint[output] = taint

    def place(self, item: Item) -> None:
        """Put an item into a region of its operands, or into a new one."""
        masks = item.inputs[3:] if item.code is OpCode.ATTENTION else ()
        operands = [v for v in item.inputs[: len(item.inputs) - len(masks)] if v is not None]
        taint = {self._find(r) for v in operands for r in self._taint.get(v, ())}
        taint |= self._outside(masks)
        home: int | None = None
        for value in operands:
            if value not in self._region:
                continue
            region = self._find(self._region[value])
            if region in taint or self._kinds[region] != item.kind:
                continue
            home = region if home is None else self._merge(home, region)
        if home is None:
            home = len(self._parent)
            self._parent.append(home)
            self._kinds.append(item.kind)
            self._region_taint.append(set())
        # Operands from regions that could not be joined are reached through the outside.
        taint |= {
            self._find(self._region[v])
            for v in operands
            if v in self._region and self._find(self._region[v]) != home
        }
        self._region_taint[home] |= taint
        self._item[item] = home
        self._region[item.output] = home
        self._taint[item.output] = set(self._region_taint[home])

    def _outside(self, values: Iterable[ir.Value | None]) -> set[int]:
        found: set[int] = set()
        for value in values:
            if value is not None:
                found |= {self._find(region) for region in self._taint.get(value, ())}
                if value in self._region:
                    found.add(self._find(self._region[value]))
        return found

    def _merge(self, a: int, b: int) -> int:
        if a == b:
            return a
        if a in self._now(b) or b in self._now(a):
            return a
        self._parent[b] = a
        self._region_taint[a] |= self._region_taint[b]
        return a

    def _now(self, region: int) -> set[int]:
        return {self._find(r) for r in self._region_taint[region]}

    def _find(self, region: int) -> int:
        while self._parent[region] != region:
            region = self._parent[region]
        return region
