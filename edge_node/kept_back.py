"""What nobody has looked at yet of a device that learns: windows, and what came between them, in their order. How the windows are
looked at is only known once those before have been learned from. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from edge_node.acceptance import Trial
from edge_node.chunk import Silence
from models.signal import WindowBatch

Item = WindowBatch | Silence | Trial


class KeptBack:
    """See the module's docstring; driven by :class:`~edge_node.lane.Lane` alone."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items = deque(items)

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def n(self) -> int:
        """Number of windows."""
        return sum(item.n for item in self._items if isinstance(item, WindowBatch))

    @property
    def first(self) -> Item:
        return self._items[0]

    def add(self, item: Item) -> None:
        self._items.append(item)

    def take(self, n: int) -> Item:
        """The first item; of windows no more than ``n``, at least 1."""
        item = self._items.popleft()
        if isinstance(item, WindowBatch) and n < item.n:
            self._items.appendleft(item.part(slice(n, None)))
            return item.part(slice(n))
        return item

    def shed(self, n: int) -> int:
        """Forget the oldest ``n`` windows, or all that there are; how many that was. What came between them stays."""
        left, kept = n, deque[Item]()
        for item in self._items:
            if not isinstance(item, WindowBatch):
                kept.append(item)
            elif left < item.n:
                kept.append(item.part(slice(left, None)) if left else item)
                left = 0
            else:
                left -= item.n
        self._items = kept
        return n - left

    def state(self) -> list[Item]:
        """All there is, for another to begin with."""
        return list(self._items)
