"""One client socket, over real TCP on the loop of production."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
import pytest

from broker.disconnect import Disconnect
from broker.metrics.slots import Row
from broker.protocols import websocket
from broker.protocols.formats import NATIVE, SSE, Format
from broker.worker import connection as module
from broker.worker.channels import Subscription
from broker.worker.connection import Connection, prepare_listening
from broker.worker.dialect import Dialect
from broker.worker.edges.native import NativeDialect
from broker.worker.hub import Hub
from tests.harness import wire
from tests.harness.wire import FrameReader, WireFrame, client_frame
from tests.unit.worker.parts import SESSION, Ring, new_channel, new_sub

FRAME = websocket.text_frame(b"x" * 1000)
LAG_TIMEOUT_MS = 123_000


class Keeper:
    """The worker of these connections: takes note of what they report."""

    write_buffer_bytes = 65536
    lag_timeout_ms = LAG_TIMEOUT_MS

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.drained = asyncio.Event()
        self.spoken = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answer = b""

    def handle_text(self, connection: Connection, payload: bytes) -> None:
        self.texts.append(payload)
        self.spoken.set()
        if self.answer:
            connection.send(self.answer)

    def handle_binary(self, connection: Connection, payload: bytes) -> None:
        connection.close(Disconnect.UNSUPPORTED_DATA)

    def handle_drained(self, connection: Connection) -> None:
        del connection
        self.drained.set()

    def handle_lost(self, connection: Connection, label: str) -> None:
        del connection
        self.lost.set_result(label)


class Peer:
    """The client's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._frames: list[WireFrame] = []

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def read(self) -> bytes:
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(self._sock, 1 << 20)

    async def frame(self) -> WireFrame:
        while not self._frames:
            data = await self.read()
            assert data, "the connection ended"
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    async def rest(self) -> list[WireFrame]:
        """All frames up to the end of the connection."""
        while data := await self.read():
            self._frames += self._reader.feed(data)
        frames, self._frames = self._frames, []
        return frames

    def cut(self) -> None:
        self._sock.close()

    def finish(self) -> None:
        """Say that nothing more will come."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the connection by a reset."""
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()


class Line:
    """A connection, its worker and its client."""

    def __init__(self, connection: Connection, keeper: Keeper, peer: Peer) -> None:
        self.connection = connection
        self.keeper = keeper
        self.peer = peer

    def fill(self) -> int:
        """Send until the socket is blocked; returns how many frames that took."""
        sent = 0
        while not self.connection.blocked:
            self.connection.send(FRAME)
            sent += 1
        return sent

    def user_timeout_ms(self) -> int:
        transport = self.connection._transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        found: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        return found


Dial = Callable[..., Awaitable[Line]]

DIALECTS = {NATIVE: NativeDialect(lambda *_: None), SSE: Dialect(SSE)}


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Make connections; they are uncorked unless the test wants otherwise."""
    opened: list[socket.socket] = []
    connections: list[Connection] = []

    async def make(format_: Format = NATIVE, *, uncorked: bool = True) -> Line:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            prepare_listening(listening, 32768)
            ours = socket.create_connection(listening.getsockname())
            theirs, _address = listening.accept()
        ours.setblocking(False)
        opened.append(ours)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, theirs)
        keeper = Keeper()
        connection = Connection(keeper, DIALECTS[format_], None, "")
        connections.append(connection)
        parser = None if format_ is SSE else websocket.FrameParser(1000)
        connection.attach(transport, parser)
        if uncorked:
            connection.uncork()
        return Line(connection, keeper, Peer(ours))

    yield make
    for connection in connections:
        connection.abort()
    for sock in opened:
        sock.close()
    await asyncio.sleep(0)


async def ended(line: Line) -> str:
    async with asyncio.timeout(5):
        return await line.keeper.lost


async def test_corked_frames_go_out_as_one(dial: Dial) -> None:
    """Head, welcome and subscribed cost one system call."""
    line = await dial(uncorked=False)
    line.connection.send(b"a")
    line.connection.send(b"b")
    line.connection.uncork()
    line.connection.send(b"c")
    received = await line.peer.read()
    while len(received) < 3:
        received += await line.peer.read()
    assert received == b"abc"


async def test_a_full_socket_is_blocked_and_drains_in_order(dial: Dial) -> None:
    """Nothing is lost or reordered between the kernel and the transport."""
    line = await dial()
    sent = line.fill()
    marks = [websocket.text_frame(b"%d" % number) for number in range(5)]
    for mark in marks:
        line.connection.send(mark)
    frames = [await line.peer.frame() for _ in range(sent + 5)]
    assert [frame.payload for frame in frames[sent:]] == [b"0", b"1", b"2", b"3", b"4"]
    async with asyncio.timeout(5):
        await line.keeper.drained.wait()
    assert not line.connection.blocked
    line.connection.send(websocket.text_frame(b"after"))
    assert (await line.peer.frame()).payload == b"after"


async def test_fan_out_writes_to_the_descriptor_while_it_may(
    dial: Dial, ring: Ring, values: Row
) -> None:
    """What the kernel does not take is queued, and nothing overtakes it."""
    line = await dial()
    line.connection.send(FRAME)
    await line.peer.frame()
    channel = new_channel()
    sub = new_sub(channel, line.connection)
    line.connection.subs[SESSION] = sub
    (live,) = channel.live.values()
    fallen: list[Subscription] = []
    hub = Hub(values, lambda sub, *_: fallen.append(sub))
    assert live[sub] == line.connection.fd >= 0
    ordinal = 0
    while not line.connection.blocked:
        ordinal += 1
        ring.event(ordinal, key=bytes(1000))
        hub.do_work()
        hub.publish(channel, ring.drain())
    assert live[sub] == line.connection.fd == -1
    hub.do_work()
    ring.event(ordinal + 1)
    hub.publish(channel, ring.drain())

    assert fallen == [sub]
    for number in range(1, ordinal + 1):
        frame = orjson.loads((await line.peer.frame()).payload)
        assert frame["seq"] == number
    await line.keeper.drained.wait()
    line.connection.send(FRAME)
    assert live[sub] == line.connection.fd >= 0
    line.connection.close(Disconnect.DRAINING)
    assert live[sub] == line.connection.fd == -1


async def test_a_reader_that_stalls_may_do_so_for_the_lag_timeout(dial: Dial) -> None:
    """The kernel's own timeout must not cut it first, and comes back afterwards."""
    line = await dial()
    assert line.user_timeout_ms() == module.USER_TIMEOUT_MS
    sent = line.fill()
    assert line.user_timeout_ms() == LAG_TIMEOUT_MS
    for _ in range(sent):
        await line.peer.frame()
    async with asyncio.timeout(5):
        await line.keeper.drained.wait()
    assert line.user_timeout_ms() == module.USER_TIMEOUT_MS


async def test_closing_says_why_and_then_nothing(dial: Dial) -> None:
    """``closing``, the Close frame with the code, and no data frame after it."""
    line = await dial()
    line.connection.close(Disconnect.DRAINING, delay_ms=7)
    line.connection.send(FRAME)
    line.connection.close(Disconnect.OVERLOADED)
    notice, close = await line.peer.frame(), await line.peer.frame()
    assert orjson.loads(notice.payload)["data"] == {
        "code": 4000,
        "reason": "draining",
        "retry": True,
        "delay_ms": 7,
    }
    assert close.opcode == wire.CLOSE
    assert int.from_bytes(close.payload[:2], "big") == 4000
    await line.peer.say(client_frame(wire.CLOSE, close.payload[:2]))
    assert await line.peer.rest() == []
    assert await ended(line) == "draining"
    line.connection.send(FRAME)
    line.connection.close(Disconnect.OVERLOADED)


async def test_closing_a_full_socket_keeps_the_order(dial: Dial) -> None:
    """What was sent before comes before the Close frame."""
    line = await dial()
    sent = line.fill()
    line.connection.close(Disconnect.NO_PROGRESS)
    frames = [await line.peer.frame() for _ in range(sent + 2)]
    assert all(frame.payload == b"x" * 1000 for frame in frames[:sent])
    assert frames[-1].opcode == wire.CLOSE


async def test_a_close_that_is_not_answered_ends_all_the_same(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has stopped cannot keep the socket."""
    monkeypatch.setattr(module, "CLOSE_WAIT_S", 0.02)
    line = await dial()
    line.connection.close(Disconnect.DRAINING)
    assert await ended(line) == "draining"


async def test_the_clients_close_is_answered(dial: Dial) -> None:
    """With its own code, and then the socket ends."""
    line = await dial()
    await line.peer.say(client_frame(wire.CLOSE, (1001).to_bytes(2, "big")))
    (close,) = await line.peer.rest()
    assert (close.opcode, close.payload) == (wire.CLOSE, (1001).to_bytes(2, "big"))
    assert await ended(line) == "normal"


async def test_pings_are_answered_and_texts_handed_on(dial: Dial) -> None:
    """In the order in which they came."""
    line = await dial()
    said = client_frame(wire.TEXT, b"one") + client_frame(wire.PING, b"p")
    await line.peer.say(said + client_frame(wire.TEXT, b"two"))
    pong = await line.peer.frame()
    assert (pong.opcode, pong.payload) == (wire.PONG, b"p")
    assert line.keeper.texts == [b"one", b"two"]
    assert line.connection.heard


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (client_frame(wire.BINARY, b"x"), 1003),
        (client_frame(wire.TEXT, b"x" * 1001), 1009),
        (client_frame(wire.TEXT, b"\xff"), 1007),
        (client_frame(wire.TEXT, b"x", masked=False), 1002),
    ],
    ids=["binary", "too big", "no text", "unmasked"],
)
async def test_who_breaks_the_protocol_is_closed(
    dial: Dial, bad: bytes, code: int
) -> None:
    """With the code that RFC 6455 has for it; what came before still counts."""
    line = await dial()
    await line.peer.say(client_frame(wire.TEXT, b"fine") + bad)
    close = await line.peer.frame()
    assert close.opcode == wire.CLOSE
    assert int.from_bytes(close.payload[:2], "big") == code
    assert line.keeper.texts == [b"fine"]
    assert not line.connection.open


async def test_who_asks_and_does_not_read_is_not_read(dial: Dial) -> None:
    """Answers do not pile up without bound for a client that ignores them."""
    line = await dial()
    line.keeper.answer = FRAME
    line.fill()
    asked = client_frame(wire.TEXT, b"x" * 900) * 5000
    say = asyncio.create_task(line.peer.say(asked))
    async with asyncio.timeout(5):
        await line.keeper.spoken.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.shield(say)
    assert len(line.keeper.texts) < 2500
    drain = asyncio.create_task(line.peer.rest())
    await say
    drain.cancel()


async def test_an_event_stream_has_no_close_frame(dial: Dial) -> None:
    """The notice and the end of the socket are all that it knows."""
    line = await dial(SSE)
    line.connection.close(Disconnect.OVERLOADED)
    received = b""
    while data := await line.peer.read():
        received += data
    assert received == SSE.notice(
        "closing", {"code": 4004, "reason": "overloaded", "retry": True}
    )
    assert await ended(line) == "overloaded"


async def test_a_client_that_vanishes_is_lost(dial: Dial) -> None:
    """Without a Close frame the label says so."""
    line = await dial()
    line.peer.cut()
    assert await ended(line) == "lost"
    assert not line.connection.open
    line.connection.send(FRAME)


async def test_an_abort_has_its_reason(dial: Dial) -> None:
    """The first reason is what the metrics are told."""
    line = await dial()
    line.connection.abort(Disconnect.NO_PONG)
    assert await ended(line) == "no_pong"


@pytest.mark.parametrize("how", ["reset", "eof", "abort", "close"])
async def test_the_loop_keeps_a_descriptor_until_the_connection_is_lost(
    dial: Dial, how: str
) -> None:
    """Else somebody else could get its number, and what fan-out writes to it."""
    line = await dial()
    transport = line.connection._transport
    assert transport is not None
    fd = transport.get_extra_info("socket").fileno()
    inode = os.fstat(fd).st_ino
    seen: list[int] = []
    lost = line.keeper.handle_lost

    def look(connection: Connection, label: str) -> None:
        seen.append(os.fstat(fd).st_ino)
        lost(connection, label)

    line.keeper.handle_lost = look  # type: ignore[method-assign]
    if how == "reset":
        line.peer.reset()
    elif how == "eof":
        line.peer.finish()
    else:
        getattr(transport, how)()
    await ended(line)

    assert seen == [inode]
