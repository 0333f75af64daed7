"""What is under way to a cluster, slot by slot, so that each slot's order is kept."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from hiredis import ReplyError

from broker.errors import StoreUnavailable
from broker.store.address import Node
from broker.store.node_link import NodeLink, Replies
from broker.store.slots import Atom, name_of

STEPS_MAX: Final = 64
"""So many commands done one after the other, and the slot does not move after all."""


class Batch:
    """What one call of `send` waits for."""

    __slots__ = ("atoms", "future", "left", "results")

    def __init__(self, atoms: list[Atom], future: Replies) -> None:
        self.atoms = atoms
        self.future = future
        self.left = len(atoms)
        self.results: list[list[Any] | Exception] = [[] for _ in atoms]

    def take(self, index: int, result: list[Any] | Exception) -> None:
        """Note what came of one atom; with the last one the future is done."""
        self.results[index] = result
        self.left -= 1
        if self.left or self.future.done():
            return
        errors = [one for one in self.results if isinstance(one, Exception)]
        if errors and len(errors) == len(self.results):
            self.future.set_exception(StoreUnavailable(str(errors[0])))
            return
        replies: list[Any] = []
        for atom, one in zip(self.atoms, self.results, strict=True):
            if isinstance(one, Exception):
                # One node of several is away: only what it was asked has no answer.
                one = [ReplyError(f"CLUSTERDOWN {one}")] * len(atom.commands)
            replies += one
        self.future.set_result(replies)


class Item:
    """An atom on its way.

    Attributes:
        number: Rises with each item.
        batch: What it is part of.
        index: Its place there.
        deadline: Time of the loop after which it is not sent again.
        hops: How often it was not done.
        target: Where to send it instead of the slot's owner.
        asking: Whether the slot is not there yet, so that ``ASKING`` must precede it.
    """

    __slots__ = (
        "asking",
        "atom",
        "batch",
        "deadline",
        "hops",
        "index",
        "number",
        "target",
    )

    def __init__(self, number: int, batch: Batch, index: int, deadline: float) -> None:
        self.number = number
        self.batch = batch
        self.index = index
        self.atom = batch.atoms[index]
        self.deadline = deadline
        self.hops = 0
        self.target: Node | None = None
        self.asking = False

    @property
    def is_plain(self) -> bool:
        """Whether it has one key: then only where that is decides who does it."""
        last = self.atom.commands[-1]
        return name_of(last) not in (b"EVAL", b"EVALSHA") or last[2] in (1, "1", b"1")

    def finish(self, result: list[Any] | Exception) -> None:
        """Hand on what came of it."""
        self.batch.take(self.index, result)


class Lane:
    """What is under way for one slot.

    Attributes:
        link: Where to.
        count: How much of it has no answer.
        again: What was not done, in order; it comes before the queue.
        queue: What was said later and must not overtake.
        troubled: Whether the slot moves, so that one step after the other is taken.
        moved: Whether a node said that it has moved for good.
        proven: The node that has done something although the slot is not there yet.
        steps: What was done since the last time that something was not.
        paused: Whether to wait a moment before the next step.
    """

    __slots__ = (
        "again",
        "count",
        "link",
        "moved",
        "paused",
        "proven",
        "queue",
        "steps",
        "troubled",
    )

    def __init__(self) -> None:
        self.link: NodeLink | None = None
        self.count = 0
        self.again: list[Item] = []
        self.queue: deque[Item] = deque()
        self.troubled = False
        self.moved = False
        self.proven: Node | None = None
        self.steps = 0
        self.paused = False

    def note_done(self, item: Item) -> None:
        """The node has done it: where the slot has arrived, all may follow."""
        self.steps += 1
        if item.asking:
            self.proven = item.target
        elif not self.again and (self.moved or self.steps >= STEPS_MAX):
            self.troubled = False

    def note_not_done(self, item: Item, kind: str) -> None:
        """The node has done nothing."""
        if not self.troubled:
            self.troubled, self.moved, self.proven = True, False, None
        self.steps = 0
        self.moved = self.moved or kind == "MOVED"
        self.again.append(item)

    def take(self) -> list[Item]:
        """What to send next.

        Of commands with several keys some may be refused and later ones not, as a node
        learns in between that it has the slot. So there is one at a time meanwhile.
        """
        # Answers to what has waited for a connection are heard a moment later.
        self.again.sort(key=lambda item: item.number)
        self.queue.extendleft(reversed(self.again))
        self.again.clear()
        queue = self.queue
        taken: list[Item] = []
        while queue:
            first = taken[0] if taken else queue[0]
            is_alike = queue[0].target == first.target in (None, self.proven)
            may_follow = self.proven is not None and is_alike and first.is_plain
            if taken and self.troubled and not (may_follow and queue[0].is_plain):
                break
            taken.append(queue.popleft())
        if not self.troubled:
            for item in taken:  # Where they were sent to once counts no more.
                item.target, item.asking = None, False
        return taken
