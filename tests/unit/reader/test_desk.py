"""The socket on which workers ask."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator

import pytest

from broker.reader.desk import open_desk
from broker.ring.requests import Hello, Request, Unwatch, Watch, encode


class Clerk:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, object]] = []
        self.batches = 0
        self._changed = asyncio.Event()

    def handle_watch(self, worker: int, request: Watch) -> None:
        self._note(worker, request)

    def handle_unwatch(self, worker: int, request: Unwatch) -> None:
        self._note(worker, request)

    def handle_gone(self, worker: int) -> None:
        self._note(worker, "gone")

    def handle_end_of_batch(self) -> None:
        self.batches += 1

    def _note(self, worker: int, what: object) -> None:
        self.heard.append((worker, what))
        self._changed.set()

    async def wait_for(self, count: int) -> list[tuple[int, object]]:
        """What it has heard, as soon as that is *count* things."""
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.heard


class Peer:
    """A worker's end of the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, *requests: Request) -> None:
        self.write_raw(b"".join(map(encode, requests)))

    def write_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def is_cut(self) -> bool:
        """Wait until the other side ends the connection."""
        async with asyncio.timeout(5):
            try:
                return await self._reader.read() == b""
            except ConnectionResetError:
                return True

    def leave(self) -> None:
        self._writer.close()


class Office:
    """A desk with its clerk and the peers that tests connect."""

    def __init__(self, clerk: Clerk, address: str) -> None:
        self.clerk = clerk
        self._address = address
        self._peers: list[Peer] = []

    async def connect(self, worker: int = 0) -> Peer:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._address)
        peer = Peer(*await asyncio.open_unix_connection(sock=sock))
        self._peers.append(peer)
        if worker:
            peer.write(Hello(worker))
        return peer

    def close(self) -> None:
        for peer in self._peers:
            peer.leave()


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    address = "\0test-desk-" + secrets.token_hex(8)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    clerk = Clerk()
    server = await open_desk(clerk, listening.detach())
    made = Office(clerk, address)
    yield made
    made.close()
    server.close()


async def test_requests_are_handed_on_in_order(office: Office) -> None:
    """With the row of the worker that wrote them."""
    peer = await office.connect(3)
    watch, unwatch = Watch(1, "s"), Unwatch("s")
    peer.write(watch, unwatch, watch)

    assert await office.clerk.wait_for(3) == [(3, watch), (3, unwatch), (3, watch)]


async def test_request_may_come_in_pieces(office: Office) -> None:
    """A socket knows no lines."""
    peer = await office.connect(1)
    line = encode(Watch(1, "s"))
    peer.write_raw(line[:7])
    await asyncio.sleep(0.01)
    peer.write_raw(line[7:])

    assert await office.clerk.wait_for(1) == [(1, Watch(1, "s"))]


async def test_many_requests_at_once_are_one_batch(office: Office) -> None:
    """Their answers are published together."""
    peer = await office.connect()
    watches: list[Request] = [Watch(number, f"s{number}") for number in range(50)]
    peer.write(Hello(1), *watches)
    await office.clerk.wait_for(50)

    assert office.clerk.batches < 5


async def test_worker_that_goes_is_reported(office: Office) -> None:
    """All that it had asked for is taken back."""
    peer = await office.connect(2)
    peer.write(Watch(1, "s"))
    peer.leave()

    assert await office.clerk.wait_for(2) == [(2, Watch(1, "s")), (2, "gone")]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\n",
        b'{"type":"other"}\n',
        b"\xff\n",
        encode(Watch(1, "s")),
        b"x" * 10_000,
    ],
)
async def test_peer_that_writes_nonsense_is_cut_off(
    office: Office, nonsense: bytes
) -> None:
    """Unreadable lines, lines without an end, and requests before the name."""
    peer = await office.connect()
    peer.write_raw(nonsense)

    assert await peer.is_cut()
    assert office.clerk.heard == []


async def test_nonsense_after_the_name_takes_the_watches_back(office: Office) -> None:
    """A worker that is cut off is gone like one that died."""
    peer = await office.connect(1)
    peer.write(Watch(1, "s"))
    peer.write_raw(b"nonsense\n")

    assert await peer.is_cut()
    assert (await office.clerk.wait_for(2))[1] == (1, "gone")


async def test_restarted_worker_replaces_its_predecessor(office: Office) -> None:
    """Its end may be heard later than its successor's beginning, and only once."""
    former = await office.connect(1)
    former.write(Watch(1, "old"))
    await office.clerk.wait_for(1)
    second = await office.connect(1)
    second.write(Watch(1, "new"))
    cut = await former.is_cut()
    second.leave()

    heard = [(1, Watch(1, "old")), (1, "gone"), (1, Watch(1, "new")), (1, "gone")]
    assert cut
    assert await office.clerk.wait_for(4) == heard


async def test_workers_do_not_disturb_each_other(office: Office) -> None:
    """One that goes takes nothing of another's back."""
    one, two = await office.connect(1), await office.connect(2)
    two.write(Watch(1, "s"))
    await office.clerk.wait_for(1)
    one.leave()
    await office.clerk.wait_for(2)
    two.write(Unwatch("s"))

    heard = await office.clerk.wait_for(3)
    assert heard == [(2, Watch(1, "s")), (1, "gone"), (2, Unwatch("s"))]


async def test_process_of_another_user_is_refused(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file mode protects an abstract address, so the peer's user is asked for."""
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    peer = await office.connect(1)

    assert await peer.is_cut()
    assert office.clerk.heard == []
