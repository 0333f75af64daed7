"""The reader of a cluster: one connection for each primary, one ring.

A watch belongs to the node that has its slot. When slots move, or another node takes
over, it is handed over: its chain, its ordinals and its cursor go along, and the new
node is asked first whether the stream still is the one that was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import NamedTuple

import structlog

from broker.config import Settings
from broker.errors import ServerUnsuitable, StoreError
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.reader.chain import Chains
from broker.reader.node import NodeOpenings, NodePump, NodeSource, NodeWatches
from broker.reader.source import COMPLAINT_EVERY_S, READER_ROW
from broker.reader.watched import Watched
from broker.ring import board as b
from broker.ring import requests
from broker.store.address import Address, Node
from broker.store.keys import event_key_pattern
from broker.store.server import self_test_key
from broker.store.slots import slot_of
from broker.store.topology import Lookout, Topology, address_of, read_target

log = structlog.get_logger(__name__)

REFRESH_S = 1.0
"""How often the nodes are asked who has which slots. A slot that moves without a key
that we have read does not ring: so long its new streams may go unheard."""
REFRESH_SOON_S = 0.05
TAKE_BACK_S = 5.0
HOPS_MAX = 8
"""How often within that time a watch goes where a node sends it: two nodes may point
at one another for a moment."""
TEST_KEYS_MAX = 200_000


class Place(NamedTuple):
    """What belongs to one node.

    Attributes:
        watches: What is watched there.
        openings: Opens channels there.
        source: Its connection.
        task: Runs the source.
    """

    watches: NodeWatches
    openings: NodeOpenings
    source: NodeSource
    task: asyncio.Task[None]


class ClusterReader:
    """Finds for each session the node of its stream; the clerk of the workers."""

    def __init__(
        self,
        settings: Settings,
        pod: str,
        address: Address,
        chains: Chains,
        board: b.Board,
        values: Row,
        limit: int,
        ring_size: int,
    ) -> None:
        """Prepare.

        Args:
            settings: The effective settings.
            pod: The name of the pod.
            address: Of the cluster.
            chains: Where everything goes.
            board: What the reader says of itself.
            values: The reader's metric row.
            limit: How many sessions may be watched.
            ring_size: Bytes of the ring.
        """
        self._settings = settings
        self._pod = pod
        self._address = address
        self._chains = chains
        self._board = board
        self._values = values
        self._limit = limit
        self._ring_size = ring_size
        self._keys = event_key_pattern(settings.event_stream)
        self._homes: dict[str, NodeWatches] = {}
        self._places: dict[Node, Place] = {}
        # Who has no node yet waits here.
        self._lobby = self._new_watches()
        self._lobby_openings = self._new_openings(self._lobby)
        self._topology: Topology | None = None
        self._owners: list[Node | None] = []
        self._settled: list[Node | None] = []
        self._take_back_at = 0.0
        self._hops: dict[Watched, int] = {}
        self._refresh_soon = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._counted_to = chains.head
        self._complained_at = float("-inf")
        self._lookout = Lookout(address, f"broker-reader-{pod}")

    # What workers want.

    def handle_watch(self, worker: int, request: requests.Watch) -> None:
        """As `Openings.handle_watch`, at the node of the session's stream."""
        watches = self._homes.get(request.session)
        if watches is None:
            place = self._place_of(self._keys.key(request.session))
            openings = self._lobby_openings if place is None else place.openings
        else:
            openings = self._openings_of(watches)
        openings.handle_watch(worker, request)

    def handle_unwatch(self, worker: int, request: requests.Unwatch) -> None:
        """As `Openings.handle_unwatch`."""
        watches = self._homes.get(request.session)
        if watches is not None:
            self._openings_of(watches).handle_unwatch(worker, request)

    def handle_gone(self, worker: int) -> None:
        """As `Openings.handle_gone`."""
        for watches in self._all_watches():
            watches.drop_worker(worker)

    def handle_end_of_batch(self) -> None:
        """As `Openings.handle_end_of_batch`."""
        self._chains.commit()
        self._values[catalog.WATCHED.slot] = len(self._homes)
        self._wake()

    def get(self, session: str) -> Watched | None:
        """The watch of *session*, if there is one."""
        watches = self._homes.get(session)
        return None if watches is None else watches.get(session)

    # What nodes say.

    def note_up(self) -> None:
        """A node's connection was opened or lost."""
        self._refresh_soon.set()
        self._say_up()

    def _say_up(self) -> None:
        topology = self._topology
        up = topology is not None and all(
            (place := self._places.get(node)) is not None and place.source.up
            for node in topology.nodes.values()
        )
        self._board.set(READER_ROW, b.REDIS_UP, int(up))
        if up:
            self._board.set(READER_ROW, b.REDIS_UP_EVER, 1)
        self._values[catalog.REDIS_UP.slot] = up

    def note_moved(self, watched: Watched, answer: str) -> bool:
        """A node answered that it has not the slot; whether another one is asked."""
        kind, _, where = answer.partition(" ")
        home = self._homes.get(watched.session)
        if home is None or kind not in ("MOVED", "ASK", "CLUSTERDOWN"):
            return False
        self._refresh_soon.set()
        hops = self._hops[watched] = self._hops.get(watched, 0) + 1
        if kind == "CLUSTERDOWN" or hops > HOPS_MAX:
            # The next topology says where it is.
            home.hand_over(watched, self._lobby, asking=False)
            return True
        node = read_target(where, self._host_of(home))
        if kind == "MOVED":
            self._owners[slot_of(watched.key)] = node
        place = self._place(node)
        home.hand_over(watched, place.watches, asking=kind == "ASK")
        place.source.wake()
        return True

    # The nodes.

    async def run(self) -> None:
        """Read for ever.

        Raises:
            ServerUnsuitable: The servers, or the settings for them, cannot be used.
        """
        if self._settings.reader_mode == "blocking":
            raise ServerUnsuitable(
                "BROKER_READER_MODE=blocking cannot be used with a cluster: it would "
                "take a connection for each slot"
            )
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._look_out()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._lookout.close()

    async def _look_out(self) -> None:
        while True:
            self._refresh_soon.clear()
            try:
                self._apply(await self._lookout.ask())
            except ServerUnsuitable:
                raise
            except StoreError as error:
                self._complain(error)
            self._measure()
            await asyncio.sleep(REFRESH_SOON_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._refresh_soon.wait()

    def _complain(self, error: StoreError) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAINT_EVERY_S:
            self._complained_at = now
            log.warning("cluster_unavailable", why=str(error))

    def _apply(self, topology: Topology) -> None:
        nodes = topology.nodes
        owners = [nodes.get(name) for name in topology.owners]
        if self._topology is not None and topology.epoch != self._topology.epoch:
            log.info("cluster_changed", epoch=topology.epoch, primaries=len(nodes))
        self._topology = topology
        self._hops.clear()
        for node in nodes.values():
            self._place(node)
        self._settle(self._lobby, None, owners)
        if owners != self._owners or owners != self._settled:
            # Not the same list: a MOVED changes one of them.
            self._owners, self._settled = owners, owners.copy()
            for node, place in list(self._places.items()):
                self._settle(place.watches, node, owners)
        if time.monotonic() >= self._take_back_at:
            self._take_back_at = time.monotonic() + TAKE_BACK_S
            for node, place in list(self._places.items()):
                if place.source.failed:
                    self._settle(place.watches, node, owners, patiently=False)
        for node, place in list(self._places.items()):
            if node not in nodes.values() and not len(place.watches):
                del self._places[node]
                place.task.cancel()
        # The archives of the workers must not know less than this.
        self._board.set(READER_ROW, b.REDIS_IDENTITY, topology.epoch)
        self._say_up()
        self._wake()

    def _settle(
        self,
        watches: NodeWatches,
        node: Node | None,
        owners: list[Node | None],
        *,
        patiently: bool = True,
    ) -> None:
        """Hand over what is at *node* and belongs elsewhere."""
        for watched in watches:
            owner = owners[slot_of(watched.key)]
            if owner == node:
                watched.asking = False
            elif not (watched.asking and patiently):
                to = self._lobby if owner is None else self._place(owner).watches
                watches.hand_over(watched, to, asking=False)

    def _place(self, node: Node) -> Place:
        """The place of *node*, which is made and begun if there is none."""
        place = self._places.get(node)
        if place is not None:
            return place
        watches = self._new_watches()
        openings = self._new_openings(watches)
        pump = NodePump(
            watches,
            self._chains,
            self._values,
            self._settings.max_event_bytes,
            self.note_moved,
        )
        source = NodeSource(
            self._settings,
            self._pod,
            watches,
            self._chains,
            openings,
            pump,
            self._board,
            self._values,
            self._ring_size,
        )
        source.prepare(
            address_of(self._address, node),
            self,
            partial(self._self_test_key, node),
            watches,
        )
        task = self._tasks.create_task(source.run(), name=f"source-{node[1]}")
        place = self._places[node] = Place(watches, openings, source, task)
        return place

    def _new_watches(self) -> NodeWatches:
        settings = self._settings
        return NodeWatches(self._keys, settings.linger_s, settings.sweep_s, self._homes)

    def _new_openings(self, watches: NodeWatches) -> NodeOpenings:
        openings = NodeOpenings(watches, self._chains, self._values, self._limit)
        openings.on_moved = self.note_moved
        return openings

    def _place_of(self, key: bytes) -> Place | None:
        owner = self._owners[slot_of(key)] if self._owners else None
        return None if owner is None else self._place(owner)

    def _openings_of(self, watches: NodeWatches) -> NodeOpenings:
        found = (one for one in self._places.values() if one.watches is watches)
        place = next(found, None)
        return self._lobby_openings if place is None else place.openings

    def _host_of(self, watches: NodeWatches) -> str:
        found = (node for node, one in self._places.items() if one.watches is watches)
        return next(found, ("", 0))[0]

    def _all_watches(self) -> list[NodeWatches]:
        return [self._lobby, *(place.watches for place in self._places.values())]

    def _wake(self) -> None:
        for place in self._places.values():
            if place.watches.work:
                place.source.wake()

    def _self_test_key(self, node: Node) -> bytes:
        """A key in one of the slots of *node*; empty if there is none."""
        if node not in self._owners:
            return b""
        tries = (self_test_key() for _ in range(TEST_KEYS_MAX))
        return next((key for key in tries if self._owners[slot_of(key)] == node), b"")

    def _measure(self) -> None:
        """What is one number for all nodes together."""
        values, places = self._values, self._places.values()
        self._lobby.forget_idle()
        head = self._chains.head
        values[catalog.RING_BYTES_WRITTEN.slot] += head - self._counted_to
        self._counted_to = head
        quarantined = sum(watches.quarantined for watches in self._all_watches())
        values[catalog.WATCHED.slot] = len(self._homes)
        values[catalog.QUARANTINED.slot] = quarantined
        self._board.set(READER_ROW, b.WATCHED, len(self._homes))
        is_full = any(place.openings.full for place in places)
        self._board.set(READER_ROW, b.WATCHES_REFUSED, int(is_full))
        loads = [place.source.load for place in places if place.source.load]
        if loads:
            # Each table has its own limit: the fullest one is what matters.
            fullest = max(loads, key=lambda load: load.keys / (load.limit or 1e12))
            values[catalog.TRACKING_KEYS.slot] = fullest.keys
            values[catalog.TRACKING_ITEMS.slot] = fullest.items
            values[catalog.TRACKING_LIMIT.slot] = fullest.limit
