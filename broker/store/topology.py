"""Which node of a cluster has which slots, as one of them says."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from broker.errors import ServerUnsuitable, StoreError, StoreUnavailable
from broker.store.address import Address, Node
from broker.store.connection import Connection
from broker.store.slots import SLOTS

ASK_S: Final = 2.0
"""How long one node may take to say how the cluster stands."""


class Topology(msgspec.Struct, frozen=True):
    """The primaries that have slots.

    Attributes:
        epoch: Rises with each failover.
        nodes: Where each is, by its id.
        owners: The id of each slot's primary; empty if the slot has none.
    """

    epoch: int
    nodes: dict[str, Node]
    owners: list[str]

    def id_of(self, node: Node) -> str:
        """The id of the primary at *node*; empty if it is not known."""
        return next((name for name, at in self.nodes.items() if at == node), "")


def address_of(cluster: Address, node: Node) -> Address:
    """The address of one node of *cluster*."""
    host, port = node
    return msgspec.structs.replace(
        cluster, kind="server", nodes=(), host=host, port=port
    )


async def ask_topology(
    cluster: Address, name: str, known: Iterable[Node], *, least_epoch: int = 0
) -> Topology:
    """Ask the nodes of a cluster, one after the other, until one answers well.

    A node that is cut off from the others tells of the past, so it is not believed if
    others have told of a later epoch.

    Args:
        cluster: The cluster, with its log-in.
        name: For ``CLIENT LIST``.
        known: Nodes that may be asked besides those of *cluster*.
        least_epoch: An answer of an earlier one is none.

    Raises:
        StoreUnavailable: None answers well; the message says why, for each.
        ServerUnsuitable: A server is no node of a cluster, or does not speak RESP3.
        ConfigError: The certificates cannot be read.
    """
    connection, _host, topology = await _ask_any(cluster, name, known, least_epoch)
    connection.close()
    return topology


async def _ask_any(
    cluster: Address, name: str, known: Iterable[Node], least_epoch: int
) -> tuple[Connection, str, Topology]:
    """Also returns the open connection that has answered, and to which host it is."""
    found = list(dict.fromkeys(known))
    random.shuffle(found)  # One that is cut off must not be asked each time.
    reasons = []
    for node in dict.fromkeys((*found, *cluster.nodes)):
        connection: Connection | None = None
        try:
            connection = await Connection.open(
                address_of(cluster, node),
                client_name=name,
                connect_timeout_s=ASK_S,
                command_timeout_s=ASK_S,
            )
            topology = await read_topology(connection, node[0])
            if topology.epoch >= least_epoch:
                answered, connection = connection, None
                return answered, node[0], topology
            reasons.append(f"{node[0]}:{node[1]}: tells of the past")
        except ServerUnsuitable:
            raise
        except StoreError as error:
            reasons.append(f"{node[0]}:{node[1]}: {error}")
        finally:
            if connection is not None:
                connection.close()
    why = "; ".join(reasons)
    raise StoreUnavailable(f"{cluster}: no node of the cluster answers: {why}")


async def read_topology(connection: Connection, host: str) -> Topology:
    """How the cluster stands for the node of *connection*.

    Args:
        connection: To the node.
        host: Where it is, for a node that does not know its own name.

    Raises:
        StoreUnavailable: No connection, or the node says that the cluster is down.
        StoreRefused: The node does not say.
        ServerUnsuitable: The server is no node of a cluster.
    """
    info, ranges = await connection.send(("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
    if isinstance(info, Exception):
        if "cluster support disabled" in str(info):
            raise ServerUnsuitable(f"{host} is no node of a cluster: use redis://")
        raise StoreUnavailable(f"CLUSTER INFO: {info}")
    if isinstance(ranges, Exception):
        raise StoreUnavailable(f"CLUSTER SLOTS: {ranges}")
    fields = dict(
        line.split(":", 1) for line in info.decode().splitlines() if ":" in line
    )
    if fields.get("cluster_state") != "ok":
        raise StoreUnavailable("the node says that the cluster is down")
    return parse_slots(ranges, host, int(fields.get("cluster_current_epoch", 0)))


def parse_slots(ranges: list[Any], host: str, epoch: int) -> Topology:
    """Take the reply to ``CLUSTER SLOTS`` apart.

    Raises:
        StoreUnavailable: No primary has any slot.
    """
    nodes: dict[str, Node] = {}
    owners = [""] * SLOTS
    for first, last, (at, port, node_id, *_), *_replicas in ranges:
        name = node_id.decode()
        # Null: where it was asked. A question mark: it does not know its host name.
        known = at not in (None, b"", b"?")
        nodes[name] = (at.decode() if known else host, port)
        owners[first : last + 1] = [name] * (last + 1 - first)
    if not nodes:
        raise StoreUnavailable("no primary of the cluster has any slot")
    return Topology(epoch, nodes, owners)


def read_target(where: str, asked_host: str) -> Node:
    """The node in ``MOVED 3999 host:port``, without the first word.

    Args:
        where: Slot, host and port; without a host it is the one that was asked.
        asked_host: That one.
    """
    host, _, port = where.rpartition(" ")[2].rpartition(":")
    host = host.strip("[]")
    return asked_host if host in ("", "?") else host, int(port)


class Lookout:
    """Asks again and again, on one connection while that leads to a node that knows.

    Attributes:
        topology: What was heard last; None before the first answer.
    """

    def __init__(self, cluster: Address, name: str) -> None:
        """Prepare without connecting.

        Args:
            cluster: The cluster, with its log-in.
            name: For ``CLIENT LIST``.
        """
        self.topology: Topology | None = None
        self._cluster = cluster
        self._name = name
        self._connection: Connection | None = None
        self._host = ""

    async def ask(self) -> Topology:
        """How the cluster stands now; never an earlier epoch than before.

        Raises:
            StoreUnavailable: No node says.
            ServerUnsuitable: As `ask_topology`.
            ConfigError: As `ask_topology`.
        """
        known = self.topology
        if self._connection is not None:
            with contextlib.suppress(StoreError):
                found = await read_topology(self._connection, self._host)
                if known is None or found.epoch >= known.epoch:
                    self.topology = found
                    return found
            self.close()
        nodes = () if known is None else known.nodes.values()
        epoch = 0 if known is None else known.epoch
        asked = await _ask_any(self._cluster, self._name, nodes, epoch)
        self._connection, self._host, self.topology = asked
        return self.topology

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
