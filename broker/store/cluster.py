"""A whole cluster behind the interface of one connection.

Each command goes to the primary that has the slot of its key. While slots move, a node
answers that nothing was done and where to ask: what is sent again goes out in order,
and later commands for the same slot wait behind it. So of commands with the same key
the order is kept, as on one server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from hiredis import ReplyError

from broker.errors import BrokerError, StoreError, StoreUnavailable
from broker.store.address import Address, Node, parse_url
from broker.store.connection import Command, Connection, OnLost, OnPush
from broker.store.lanes import Batch, Item, Lane
from broker.store.node_link import NodeLink, Replies
from broker.store.replies import MOVED_KINDS, error_kind
from broker.store.slots import name_of, slot_of, split
from broker.store.topology import (
    Topology,
    address_of,
    ask_topology,
    read_target,
    read_topology,
)

HOME_SLOT: Final = slot_of(b"broker:notices")
"""Its primary gets what has no key, and all subscribe there: so the answer to a
``PUBLISH`` counts all subscribers, where any other node would count its own only."""
REFRESH_S: Final = 5.0
REFRESH_SOON_S: Final = 0.1
AGAIN_S: Final = 0.02
"""Pause before a command is sent again whose keys are under way between nodes."""
HOPS_AT_ONCE: Final = 3

_known: dict[tuple[Node, ...], tuple[Node, ...]] = {}
"""The primaries of each cluster as they were known last to this process: the nodes in
the settings may be gone by now."""


class ClusterConnection(Connection):
    """Open from `open_cluster` until `close`, or until any node's connection is lost.

    Nodes are connected when they are first needed. One that cannot be reached fails
    only what it is asked.
    """

    def __init__(
        self,
        address: Address,
        topology: Topology,
        client_name: str,
        timeouts_s: tuple[float, float],
    ) -> None:
        """Use `open_cluster`."""
        connect_timeout_s, command_timeout_s = timeouts_s
        super().__init__(asyncio.get_running_loop(), command_timeout_s)
        self._address = address
        self._name = client_name
        self._connect_timeout_s = connect_timeout_s
        self._numbers = itertools.count()
        self._links: dict[Node, NodeLink] = {}
        self._lanes: dict[int, Lane] = {}
        self._scripts: dict[Command, None] = {}
        self._listens_at: Node | None = None
        self._refresh_soon = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._topology = topology
        self._least_epoch = 0
        self._owners: list[Node | None] = []
        self._learn(topology)

    @classmethod
    async def open_cluster(
        cls,
        address: Address,
        *,
        client_name: str,
        on_push: OnPush | None = None,
        on_lost: OnLost | None = None,
        connect_timeout_s: float = 5,
        command_timeout_s: float = 5,
    ) -> ClusterConnection:
        """Ask the nodes who has which slots, and connect to one.

        Args:
            address: Of a cluster.
            client_name: As `Connection.open`, for each node.
            on_push: As `Connection.open`.
            on_lost: As `Connection.open`.
            connect_timeout_s: For all of it, and for each further node.
            command_timeout_s: As `Connection.open`; and for how long a command is
                sent again whose slot moves.

        Raises:
            StoreUnavailable: No node answers, or the cluster is down.
            StoreRefused: User or password are wrong.
            ServerUnsuitable: The server is no node of a cluster.
        """
        timeouts_s = connect_timeout_s, command_timeout_s
        try:
            async with asyncio.timeout(connect_timeout_s):
                known = _known.get(address.nodes, ())
                topology = await ask_topology(address, client_name, known)
                cluster = cls(address, topology, client_name, timeouts_s)
                await cluster._connect()
        except TimeoutError:
            why = f"{address}: no answer within {connect_timeout_s} s"
            raise StoreUnavailable(why) from None
        if on_push is not None:
            cluster.on_push = on_push
        if on_lost is not None:
            cluster._on_lost = on_lost
        cluster._refreshing = asyncio.create_task(cluster._refresh(), name="topology")
        return cluster

    @property
    def epoch(self) -> int:
        """The cluster's epoch as far as it is known here."""
        return self._topology.epoch

    def look_again(self, least_epoch: int) -> None:
        """Somebody knows a later state of the cluster: find it out soon."""
        self._least_epoch = max(self._least_epoch, least_epoch)
        self._refresh_soon.set()

    def send(self, *commands: Command) -> Replies:
        """As `Connection.send`; each command to the node that has its slot.

        If only some nodes can be reached, what the others were asked is answered with
        the error ``CLUSTERDOWN``.
        """
        future: Replies = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the connection is closed"))
            return future
        atoms = list(split(commands))
        batch = Batch(atoms, future)
        deadline = self._loop.time() + self._command_timeout_s
        for index, atom in enumerate(atoms):
            if atom.slot < 0:
                self._note_scripts(atom.commands)
            self._dispatch(Item(next(self._numbers), batch, index, deadline))
        return future

    async def call_in_turn(self, *commands: Command) -> list[Any]:
        """As `Connection.call_in_turn`: one after the other has its answer."""
        return [await self.call(*command) for command in commands]

    def send_unanswered(self, command: Command) -> None:
        """As `Connection.send_unanswered`; the home node gets it."""
        self._listens_at = self._listens_at or self._anywhere()
        link = self._links.get(self._listens_at)
        if not self._closed and link is not None and link.connection is not None:
            link.connection.send_unanswered(command)

    def _end(self, reason: StoreUnavailable) -> None:
        if self._closed:
            return
        super()._end(reason)
        if self._refreshing is not None:
            self._refreshing.cancel()
        for link in self._links.values():
            link.close()
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            for item in (*lane.again, *lane.queue):
                item.finish(reason)

    # Commands on their way.

    def _dispatch(self, item: Item) -> None:
        lane = self._lanes.get(item.atom.slot)
        if lane is None:
            lane = self._lanes[item.atom.slot] = Lane()
        link = self._link(self._owner(item.atom.slot))
        turned = lane.count and lane.link is not link
        if lane.troubled or lane.queue or turned:
            lane.queue.append(item)
        else:
            self._put(lane, item, link)

    def _put(self, lane: Lane, item: Item, link: NodeLink) -> None:
        lane.link = link
        lane.count += 1
        commands = item.atom.commands
        if item.asking:
            commands = [(b"ASKING",), *commands]
        link.send(commands).add_done_callback(partial(self._answered, lane, item))

    def _answered(self, lane: Lane, item: Item, answer: Replies) -> None:
        lane.count -= 1
        error = answer.exception()
        if error is not None:
            item.finish(StoreUnavailable(str(error)))
        else:
            replies = answer.result()
            self._judge(lane, item, replies[1:] if item.asking else replies)
        if not lane.count and not self._closed:
            self._go_on(lane, item.atom.slot)

    def _judge(self, lane: Lane, item: Item, replies: list[Any]) -> None:
        moved = next((one for one in replies if _is_moved(one)), None)
        if moved is None or self._closed or self._loop.time() >= item.deadline:
            lane.note_done(item)
            item.finish(replies)
            return
        kind, _, where = str(moved).partition(" ")
        item.hops += 1
        item.target, item.asking = None, kind == "ASK"
        if kind != "TRYAGAIN":
            asked = self._links_node(lane.link)
            node = read_target(where, asked[0] if asked else "")
            if kind == "ASK":
                item.target = node
            else:
                self._owners[item.atom.slot] = node
                self._refresh_soon.set()
        if kind == "TRYAGAIN" or item.hops % HOPS_AT_ONCE == 0:
            lane.paused = True
        lane.note_not_done(item, kind)

    def _go_on(self, lane: Lane, slot: int) -> None:
        if lane.paused:
            lane.paused = False
            self._loop.call_later(AGAIN_S, self._step, lane, slot)
        else:
            self._step(lane, slot)

    def _step(self, lane: Lane, slot: int) -> None:
        """Send what comes next, when nothing is under way."""
        if self._closed:
            return
        items = lane.take()
        for item in items:
            self._put(lane, item, self._link(item.target or self._owner(slot)))
        if not items:
            del self._lanes[slot]

    def _note_scripts(self, commands: list[Command]) -> None:
        """Every node needs them, those that are connected later as well."""
        scripts = [tuple(one) for one in commands if name_of(one) == b"SCRIPT"]
        self._scripts |= dict.fromkeys(scripts)
        asked = self._anywhere()
        for node, link in self._links.items():
            if scripts and node != asked and link.connection is not None:
                link.send(scripts).add_done_callback(_look_at)

    # Nodes.

    def _owner(self, slot: int) -> Node:
        if slot < 0:
            return self._anywhere()
        return self._owners[slot] or self._home()

    async def _connect(self) -> None:
        """Connect to the home node; if it is away, to any other one."""
        home = self._home()
        others = (node for node in self._topology.nodes.values() if node != home)
        try:
            async with asyncio.timeout(self._connect_timeout_s / 4):
                await self._link(home).opened()
        except (StoreUnavailable, TimeoutError) as error:
            for node in others:
                with contextlib.suppress(StoreUnavailable):
                    await self._link(node).opened()
                    return
            why = str(error) or "no answer in time"
            raise StoreUnavailable(f"{home[0]}:{home[1]}: {why}") from error

    def _anywhere(self) -> Node:
        """Where to send what has no key."""
        home = self._home()
        if self._is_open(home):
            return home
        return next((node for node in self._links if self._is_open(node)), home)

    def _is_open(self, node: Node) -> bool:
        link = self._links.get(node)
        return link is not None and link.connection is not None

    def _home(self) -> Node:
        home = self._owners[HOME_SLOT]
        return home or next(iter(self._topology.nodes.values()))

    def _link(self, node: Node) -> NodeLink:
        link = self._links.get(node)
        if link is None:
            link = NodeLink(partial(self._open_node, node), self._refresh_soon.set)
            self._links[node] = link
        return link

    def _links_node(self, link: NodeLink | None) -> Node | None:
        return next((node for node, one in self._links.items() if one is link), None)

    async def _open_node(self, node: Node) -> Connection:
        connection = await Connection.open(
            address_of(self._address, node),
            client_name=self._name,
            on_push=self._handle_push,
            on_lost=lambda why: self._end(StoreUnavailable(f"a node was lost: {why}")),
            connect_timeout_s=self._connect_timeout_s,
            command_timeout_s=self._command_timeout_s,
        )
        try:
            if self._scripts:
                await connection.call_all(*self._scripts)
        except BaseException:
            connection.close()
            raise
        return connection

    def _handle_push(self, push: list[Any]) -> None:
        self.on_push(push)

    async def _refresh(self) -> None:
        """Ask again and again how the cluster stands."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._refresh_soon.wait()
            self._refresh_soon.clear()
            with contextlib.suppress(BrokerError):  # Also for want of a certificate.
                topology = await self._ask()
                if topology != self._topology:
                    self._learn(topology)
            await asyncio.sleep(REFRESH_SOON_S)

    async def _ask(self) -> Topology:
        least_epoch = max(self.epoch, self._least_epoch)
        for node, link in list(self._links.items()):
            if link.connection is None or link.connection.closed:
                continue
            with contextlib.suppress(StoreError):
                topology = await read_topology(link.connection, node[0])
                if topology.epoch >= least_epoch:
                    return topology
        known = self._topology.nodes.values()
        return await ask_topology(
            self._address, self._name, known, least_epoch=least_epoch
        )

    def _learn(self, topology: Topology) -> None:
        self._topology = topology
        nodes = topology.nodes
        self._owners = [nodes.get(name) for name in topology.owners]
        _known[self._address.nodes] = tuple(nodes.values())
        if self._listens_at not in (None, self._home()):
            # Notices of others would still come, but nobody would count us.
            self._end(StoreUnavailable("the home of the notices has moved"))
        used = {lane.link for lane in self._lanes.values()}
        present = set(self._owners)
        for node, link in list(self._links.items()):
            if node not in present and link not in used and link.idle:
                del self._links[node]
                link.close()


async def open_connection(
    url: str | Address,
    *,
    client_name: str,
    on_push: OnPush | None = None,
    on_lost: OnLost | None = None,
    connect_timeout_s: float = 5,
    command_timeout_s: float = 5,
) -> Connection:
    """Connect to a server, to the primary that Sentinels name, or to a cluster.

    Arguments and errors as `Connection.open`.
    """
    address = parse_url(url) if isinstance(url, str) else url
    opens: Callable[..., Awaitable[Connection]] = Connection.open
    if address.kind == "cluster":
        opens = ClusterConnection.open_cluster
    return await opens(
        address,
        client_name=client_name,
        on_push=on_push,
        on_lost=on_lost,
        connect_timeout_s=connect_timeout_s,
        command_timeout_s=command_timeout_s,
    )


def _is_moved(reply: object) -> bool:
    return isinstance(reply, ReplyError) and error_kind(reply) in MOVED_KINDS


def _look_at(answer: Replies) -> None:
    if not answer.cancelled():
        answer.exception()  # Whoever needs the script finds out.
