"""The reader's parts for one node of a cluster: what differs from a single server.

One transaction may not span slots, so each key is read in one of its own. And a node
may answer that it has not the key, or not any more: then its watch goes elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from broker.errors import StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.reader.chain import Chains
from broker.reader.opening import Openings
from broker.reader.pump import Pump
from broker.reader.source import Source
from broker.reader.verifying import judge, questions
from broker.reader.watched import REST_S, Watched
from broker.reader.watches import Batch, Watches
from broker.store.address import Address
from broker.store.connection import Command, Connection
from broker.store.keys import EventKeys
from broker.store.server import (
    ServerIdentity,
    TrackingLoad,
    TrackingUnavailable,
    identify,
    tracking_load,
)
from broker.store.streams import (
    BatchError,
    KeyRead,
    doorbell_read,
    glance,
    parse_doorbell_reply,
)

VERIFY_MAX = 64
NOT_READY_REST_S = REST_S / 4


class Registry(Protocol):
    """Who knows the whole cluster."""

    def note_moved(self, watched: Watched, answer: str) -> bool:
        """A node answered that it has not the slot; whether another one is asked."""

    def note_up(self) -> None:
        """A node's connection was opened or lost."""


class NodeWatches(Watches):
    """What is watched at one node.

    Attributes:
        moved: Streams that were read elsewhere until now: first they are verified,
            since a failover may have lost some of what was read.
    """

    def __init__(
        self,
        keys: EventKeys,
        linger_s: float,
        sweep_s: float,
        homes: dict[str, NodeWatches],
    ) -> None:
        """Prepare.

        Args:
            keys: Names of the streams.
            linger_s: As `Watches`.
            sweep_s: As `Watches`.
            homes: Where each session is watched; shared by all nodes.
        """
        super().__init__(keys, linger_s, sweep_s)
        self._homes = homes
        self.moved: dict[Watched, None] = {}

    @property
    def total(self) -> int:
        """How many streams the whole reader watches."""
        return len(self._homes)

    @property
    def work(self) -> bool:
        """Whether anything wants reading now."""
        return bool(self.moved) or super().work

    def add(self, session: str) -> Watched:
        """As `Watches.add`."""
        self._homes[session] = self
        return super().add(session)

    def remove(self, watched: Watched) -> None:
        """As `Watches.remove`."""
        super().remove(watched)
        self.moved.pop(watched, None)
        if self._homes.get(watched.session) is self:
            del self._homes[watched.session]

    def hand_over(self, watched: Watched, to: NodeWatches, *, asking: bool) -> None:
        """Watch it at another node: verify it there, then go on behind its cursor."""
        self.remove(watched)
        watched.asking = asking
        watched.rest_until = 0.0
        to._by_key[watched.key] = watched
        to._by_session[watched.session] = watched
        to._homes[watched.session] = to
        if watched.channel:
            to.moved[watched] = None
        if watched.waiting or not watched.channel:
            to.opening[watched] = None

    def verify_later(self) -> None:
        """Verify everything before it is read again."""
        self.moved |= dict.fromkeys(one for one in self if one.channel)

    def rest(self, watched: Watched) -> None:
        """Read it again in a moment: the node is not ready to have it read."""
        watched.rest_until = time.monotonic() + NOT_READY_REST_S
        self._resting[watched] = None

    def take(self) -> Batch | None:
        """As `Watches.take`, without what is to be verified: it is dirty after that."""
        batch = super().take()
        if batch is not None and self.moved:
            batch.watched = [one for one in batch.watched if one not in self.moved]
            batch.glances = [one for one in batch.glances if one not in self.moved]
        return batch


class NodeOpenings(Openings):
    """Also verifies what comes from another node."""

    def __init__(
        self, watches: NodeWatches, chains: Chains, values: Row, limit: int
    ) -> None:
        super().__init__(watches, chains, values, limit)
        self._node_watches = watches

    async def do_work(self, connection: Connection) -> int:
        """As `Openings.do_work`, which comes second."""
        return await self._verify(connection) + await super().do_work(connection)

    async def _verify(self, connection: Connection) -> int:
        moved = self._node_watches.moved
        part = list(islice(moved, VERIFY_MAX))
        if not part:
            return 0
        asked = [(watched.asking, questions([watched])) for watched in part]
        replies = await _send(connection, asked)
        not_ready: StoreUnavailable | None = None
        for watched, (info, there) in zip(part, replies, strict=True):
            if not self._node_watches.is_current(watched):
                continue
            try:
                if judge(watched, info, there, self._chains):
                    self._values[catalog.RESETS.slot] += 1
            except StoreUnavailable as error:
                if not self.on_moved(watched, str(error)):
                    not_ready = error
                continue
            moved.pop(watched, None)
            self._node_watches.mark_dirty(watched)
        self._chains.commit()
        if not_ready is not None:
            raise not_ready
        return len(part)


class NodePump(Pump):
    """Reads each key by itself, all of a batch in one write."""

    def __init__(
        self,
        watches: NodeWatches,
        chains: Chains,
        values: Row,
        max_event_bytes: int,
        on_moved: Callable[[Watched, str], bool],
    ) -> None:
        super().__init__(watches, chains, values, max_event_bytes)
        self._node_watches = watches
        self._on_moved = on_moved

    async def do_work(self, connection: Connection) -> int:
        """As `Pump.do_work`."""
        batch = self._watches.take()
        if batch is None or not len(batch):
            return 0
        asked = [(one.asking, glance([one.key])) for one in batch.glances]
        asked += [
            (
                one.asking,
                doorbell_read(
                    [one.key], [one.anchor.cursor], batch.count, batch.with_info
                ),
            )
            for one in batch.watched
        ]
        try:
            replies = await _send(connection, asked)
        except StoreUnavailable:
            self._watches.put_back(batch)
            raise
        self._values[catalog.READS.slot] += 1
        self._take_answers(batch, replies)
        self.finish_batch()
        return len(batch)

    def _count_written(self) -> None:
        """Nothing: what all nodes have written is counted once."""

    def _take_answers(self, batch: Batch, replies: Iterator[list[Any]]) -> None:
        for watched in batch.glances:
            self._append_glance(watched, next(replies)[0])
        kept: list[Watched] = []
        pages: list[KeyRead] = []
        for watched, answer in zip(batch.watched, replies, strict=True):
            read = parse_doorbell_reply(answer, [watched.key], batch.with_info)
            if not isinstance(read, BatchError):
                kept.append(watched)
                pages += read
            elif read.retry:
                self._put_off(watched, read)
            elif self._watches.is_current(watched):
                self._quarantine(watched, read.kind)
        self._append_batch(Batch(kept, [], batch.count, batch.with_info), pages)

    def _put_off(self, watched: Watched, error: BatchError) -> None:
        """It is elsewhere, or the node is not ready to have this key read."""
        if not self._watches.is_current(watched):
            return
        if not self._on_moved(watched, error.message):
            self._values[catalog.READ_ERRORS.slots["busy"]] += 1
            self._node_watches.rest(watched)


class NodeSource(Source):
    """The connection to one primary of a cluster.

    Attributes:
        up: Whether it reads.
        load: How full the node's tracking table is, None while nobody knows.
    """

    up = False
    failed = False
    load: TrackingLoad | None = None

    def prepare(
        self,
        address: Address,
        registry: Registry,
        test_key: Callable[[], bytes],
        watches: NodeWatches,
    ) -> None:
        """Name what only a node has; before `run`.

        Args:
            address: Of the node.
            registry: Of all nodes.
            test_key: Makes a key in one of the node's slots; empty if it has none.
            watches: What is watched here.
        """
        self._address = address
        self._registry = registry
        self._test_key = test_key
        self._node_watches = watches

    def wake(self) -> None:
        """There is something to do."""
        self._work.set()

    def _where(self) -> str | Address:
        return self._address

    async def _identify(self, connection: Connection) -> ServerIdentity:
        return await identify(connection, in_cluster=True)

    def _say_identity(self, identity: ServerIdentity) -> None:
        """Nothing: the number of the cluster is its epoch."""

    def _self_test_key(self) -> bytes | None:
        return self._test_key()

    async def _try_tracking(self, connection: Connection) -> bool:
        if not await super()._try_tracking(connection):
            raise TrackingUnavailable("clusters are read by CLIENT TRACKING only")
        return True

    async def _verify_all(self, connection: Connection) -> None:
        del connection  # One answer after the other may lead elsewhere.
        self._node_watches.verify_later()

    async def _check_table(self, connection: Connection) -> None:
        self.load = await tracking_load(connection)
        self._judge_load(self.load)

    def _look(self) -> None:
        self._watches.forget_idle()

    def _say_up(self, up: bool) -> None:
        self.up, self.failed = up, not up
        self._registry.note_up()


async def _send(
    connection: Connection, asked: list[tuple[bool, list[Command]]]
) -> Iterator[list[Any]]:
    """Send it all in one write; returns the replies to each part."""
    commands: list[Command] = []
    sizes = []
    for is_asking, part in asked:
        if is_asking:
            # Counts for one command, or for the transaction that it begins.
            is_transaction = len(part) > 1 and part[0] == (b"MULTI",)
            part = _after_asking(part, is_transaction)
        commands += part
        sizes.append(len(part))
    replies = iter(await connection.send(*commands))
    cut = [list(islice(replies, size)) for size in sizes]
    return iter(
        [
            _without_asking(answer, len(part)) if is_asking else answer
            for (is_asking, part), answer in zip(asked, cut, strict=True)
        ]
    )


def _after_asking(part: list[Command], is_transaction: bool) -> list[Command]:
    if is_transaction:
        return [(b"ASKING",), *part]
    return [word for one in part for word in ((b"ASKING",), one)]


def _without_asking(answer: list[Any], count: int) -> list[Any]:
    return answer[1:] if len(answer) == count + 1 else answer[1::2]
