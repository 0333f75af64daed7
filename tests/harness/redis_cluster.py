"""A real cluster: primaries, a replica for each if wanted, and slots that move."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Self

from redis import Redis

from broker.store.embedded import LOOPBACK, EmbeddedServer, free_port
from broker.store.slots import SLOTS, slot_of
from tests.harness.redis_server import new_server

NODE_TIMEOUT_MS = 2000
"""Silence after which the others take a node for gone."""
_READY_S = 30.0


class RedisCluster:
    """Servers that share the slots evenly.

    Attributes:
        primaries: The nodes that have slots in the beginning.
        replicas: One for each of them, or none.
    """

    def __init__(
        self, directory: Path, count: int = 3, *, replicated: bool = False
    ) -> None:
        self._directory = directory
        self.primaries = [self._new(f"primary{n}") for n in range(count)]
        names = range(count) if replicated else ()
        self.replicas = [self._new(f"replica{n}") for n in names]

    def _new(self, name: str) -> EmbeddedServer:
        place = self._directory / name
        place.mkdir()
        return new_server(
            place,
            *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--repl-diskless-sync-delay", "0"),
        )

    @property
    def nodes(self) -> list[EmbeddedServer]:
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        nodes = ",".join(f"{LOOPBACK}:{one.port}" for one in self.primaries)
        return f"redis+cluster://{nodes}"

    def start(self) -> Self:
        """Start everything and wait until every node says that all is well."""
        for node in self.nodes:
            node.start()
        share = SLOTS // len(self.primaries) + 1
        for number, node in enumerate(self.primaries):
            first, end = number * share, min((number + 1) * share, SLOTS)
            said(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for number, node in enumerate(self.nodes):
            said(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.meet(node)
        self.wait_for(lambda node: len(known(node)) == len(self.nodes))
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            said(replica, "CLUSTER", "REPLICATE", id_of(primary))
        self.wait_until_well()
        for replica in self.replicas:
            _wait(lambda one=replica: b"master_link_status:up" in info(one), "replica")
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def add(self) -> EmbeddedServer:
        """Another primary without slots, which all others know."""
        node = self._new(f"primary{len(self.primaries)}")
        node.start()
        self.primaries.append(node)
        self.meet(node)
        self.wait_for(lambda one: len(known(one)) == len(self.nodes))
        self.wait_until_well()
        return node

    def cut_off_replica(self, primary: EmbeddedServer) -> None:
        """From now on *primary* takes writes that its replica does not get."""
        said(primary, "ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
        said(primary, "CLIENT", "KILL", "TYPE", "replica")

    def meet(self, node: EmbeddedServer) -> None:
        """Introduce *node* to the first one."""
        (own,) = (field for field in known(node) if b"myself" in field[2])
        port = own[1].partition(b"@")[2].partition(b",")[0]
        said(self.primaries[0], "CLUSTER", "MEET", LOOPBACK, node.port, port)

    def owner(self, slot: int) -> EmbeddedServer:
        """The primary that has *slot*, as a living node knows."""
        living = next(one for one in self.nodes if one.pid is not None)
        for first, last, (_, port, *_rest), *_replicas in said(
            living, "CLUSTER", "SLOTS"
        ):
            if first <= slot <= last:
                return next(one for one in self.nodes if one.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    async def move(
        self, slot: int, target: EmbeddedServer, *, pause_s: float = 0.0
    ) -> None:
        """Move a slot with its keys, as ``redis-cli --cluster reshard`` does.

        Args:
            slot: Which.
            target: Where to.
            pause_s: How long it stays half moved, before and after its keys went.
        """
        await self.begin_move(slot, target)
        await asyncio.sleep(pause_s)
        await self.move_keys(slot, target)
        await asyncio.sleep(pause_s)
        await self.end_move(slot, target)

    async def move_on(self, slot: int, *, pause_s: float = 0.0) -> None:
        """Move a slot to the next primary."""
        place = self.primaries.index(self.owner(slot))
        target = self.primaries[(place + 1) % len(self.primaries)]
        await self.move(slot, target, pause_s=pause_s)

    async def begin_move(self, slot: int, target: EmbeddedServer) -> None:
        """From now on the slot is under way: new keys are made at *target*."""
        source = self.owner(slot)
        said(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
        said(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(target))

    async def move_keys(self, slot: int, target: EmbeddedServer) -> None:
        """Move what is in the slot; it stays under way."""
        await asyncio.to_thread(_migrate, slot, self.owner(slot), target)

    async def end_move(self, slot: int, target: EmbeddedServer) -> None:
        """Tell all primaries that the slot is at *target*."""
        for node in (target, self.owner(slot), *self.primaries):
            said(node, "CLUSTER", "SETSLOT", slot, "NODE", id_of(target))

    def wait_until_well(self) -> None:
        """Wait until every node says that all slots are served."""
        self.wait_for(_is_well)

    def wait_for(self, holds: Any) -> None:
        """Wait until *holds* of each living node."""
        for node in self.nodes:
            if node.pid is not None:
                _wait(lambda one=node: holds(one), f"port {node.port}")


def _migrate(slot: int, source: EmbeddedServer, target: EmbeddedServer) -> None:
    while keys := said(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
        said(source, "MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)


def session_at(cluster: RedisCluster, node: EmbeddedServer, prefix: str) -> str:
    """A session whose stream is in a slot of *node*."""
    names = (f"{prefix}-{number}" for number in range(10_000))
    return next(name for name in names if cluster.owner(slot_at(name)) is node)


def slot_at(session: str) -> int:
    """The slot of a session's stream."""
    return slot_of(f"broker:events:{session}".encode())


def said(node: EmbeddedServer, *command: object) -> Any:
    """What *node* answers."""
    with Redis(port=node.port, protocol=2, socket_timeout=10) as client:
        client.response_callbacks.clear()  # As it came.
        return client.execute_command(*command)


def id_of(node: EmbeddedServer) -> str:
    found: bytes = said(node, "CLUSTER", "MYID")
    return found.decode()


def known(node: EmbeddedServer) -> list[list[bytes]]:
    """The nodes that *node* knows, each as its fields."""
    return [line.split() for line in said(node, "CLUSTER", "NODES").splitlines()]


def info(node: EmbeddedServer) -> bytes:
    return bytes(said(node, "INFO", "replication"))


def _is_well(node: EmbeddedServer) -> bool:
    return b"cluster_state:ok" in said(node, "CLUSTER", "INFO")


def _wait(holds: Any, what: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not holds():
        assert time.monotonic() < deadline, f"the cluster is not ready: {what}"
        time.sleep(0.02)
