"""The public server of one worker, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator

import pytest

from broker.config import load_settings
from broker.disconnect import Disconnect
from broker.metrics.slots import Slots
from broker.process import Boot
from broker.protocols import websocket
from broker.ring import board as b
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.worker.connection import (
    TCP_NOTSENT_LOWAT,
    USER_TIMEOUT_MS,
    Connection,
    prepare_listening,
)
from broker.worker.edges import native as module
from broker.worker.server import Server
from broker.worker.worker import READER_ROW, Worker
from tests.harness import http, wire
from tests.harness.client import Address, Refused, WebSocketClient, request_head

STALLED_BYTES_MAX = 300_000
"""What the kernel and the transport may take for a client that never reads."""


class Front:
    """A worker with its server, as its process puts them together; without a reader.

    Attributes:
        handlers: aiohttp's protocol of each accepted socket, if it still lives.
    """

    def __init__(self, **settings: str) -> None:
        named = {f"BROKER_{name.upper()}": value for name, value in settings.items()}
        self._settings = load_settings(named, env_file=None)
        self._segment = Segment.create(1 << 20)
        self.board = b.Board.create(1)
        self._slots = Slots.create(1)
        boot = Boot(
            role="worker",
            index=1,
            worker_count=1,
            pod="0" * 16,
            settings={},
            ring_fd=self._segment.fd,
            board_fd=self.board.fd,
            metrics_fd=self._slots.fd,
            doorbell_fds=[],
        )
        values = self._slots.row(1)
        receiver = Receiver(self._segment)
        self.worker = Worker(boot, self._settings, receiver, self.board, values)
        self._server = Server(self._settings, values, self.worker.edges)
        self.handlers: list[weakref.ref[asyncio.Protocol]] = []
        self.board.set(READER_ROW, b.REDIS_UP, 1)
        self.address: Address = ("", 0)
        self._accepting: asyncio.Server

    async def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        prepare_listening(listening, self._settings.notsent_lowat_bytes)
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_server(self._accept, sock=listening)
        self.address = listening.getsockname()

    def _accept(self) -> asyncio.Protocol:
        handler = self._server.protocol()
        self.handlers.append(weakref.ref(handler))
        return handler

    @property
    def connection(self) -> Connection:
        """The only connection there is."""
        (connection,) = self.worker.reception.connections
        return connection

    @property
    def sock(self) -> socket.socket:
        transport = self.connection._transport
        assert transport is not None
        found: socket.socket = transport.get_extra_info("socket")
        return found

    async def stop(self) -> None:
        self._accepting.close()
        for connection in list(self.worker.reception.connections):
            connection.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """The server with its default settings."""
    made = Front()
    await made.start()
    yield made
    await made.stop()


async def dial(front: Front, path: str = "/v1/ws", **kwargs: object) -> WebSocketClient:
    return await WebSocketClient.connect(front.address, path, **kwargs)  # type: ignore[arg-type]


def command(cmd: str, ref: str) -> bytes:
    return wire.client_frame(wire.TEXT, f'{{"cmd":"{cmd}","id":"{ref}"}}'.encode())


async def read_frames(
    front: Front, data: bytes, count: int
) -> tuple[bytes, list[wire.WireFrame]]:
    """Send *data* in one piece; the head of the answer and the frames behind it."""
    reader, writer = await asyncio.open_connection(*front.address)
    writer.write(data)
    frames: list[wire.WireFrame] = []
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        parser = wire.FrameReader()
        while len(frames) < count:
            frames += parser.feed(await reader.read(65536))
    writer.transport.abort()
    return head, frames


async def test_what_comes_with_the_upgrade_is_not_lost(front: Front) -> None:
    """Frames in the same packet as the request are answered like later ones."""
    head = request_head(front.address, "/v1/ws", wire.new_key())
    early = command("ping", "one") + command("ping", "two")
    answer, frames = await read_frames(front, head + early, 3)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"welcome" in frames[0].payload
    assert [b'"one"' in frames[1].payload, b'"two"' in frames[2].payload] == [True] * 2


async def test_half_a_frame_with_the_upgrade_is_completed(front: Front) -> None:
    """The parser goes on where the first packet ended."""
    reader, writer = await asyncio.open_connection(*front.address)
    frame = command("ping", "split")
    head = request_head(front.address, "/v1/ws", wire.new_key())
    writer.write(head + frame[:5])
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame[5:])
        received = b""
        while b"split" not in received:
            received += await reader.read(65536)
    writer.transport.abort()


async def test_aiohttp_is_gone_after_the_upgrade(front: Front) -> None:
    """Its objects would be most of the memory of an idle connection."""
    client = await dial(front)
    await client.until("welcome")
    await asyncio.sleep(0)
    gc.collect()
    assert [handler() for handler in front.handlers] == [None]
    client.send({"cmd": "ping"})
    await client.until("pong")
    client.cut()


@pytest.mark.parametrize("line", ["OPTIONS * HTTP/1.1", "CONNECT a:1 HTTP/1.1"])
async def test_requests_for_no_path_are_answered(front: Front, line: str) -> None:
    """They are nobody's fault here."""
    reader, writer = await asyncio.open_connection(*front.address)
    writer.write(f"{line}\r\nHost: localhost\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.split()[1] in (b"400", b"404")


async def test_pages_may_ask_whether_they_may_send_a_token(front: Front) -> None:
    """To an event stream, from an origin that is allowed; nobody else may."""
    origin = f"http://{front.address[0]}:{front.address[1]}"
    permitted, refused = [
        await http.request(
            "OPTIONS", front.address, "/v1/sse/s1", headers={"Origin": one}
        )
        for one in (origin, "http://evil.example")
    ]

    assert permitted.status == 204
    assert permitted.headers["access-control-allow-origin"] == origin
    assert "authorization" in permitted.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in refused.headers


async def test_aiohttp_is_gone_from_event_streams(front: Front) -> None:
    """The same for the other protocol."""
    reader, writer = await asyncio.open_connection(*front.address)
    writer.write(b"GET /v1/sse/s1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/event-stream" in head
    await asyncio.sleep(0)
    gc.collect()
    assert [handler() for handler in front.handlers] == [None]
    writer.transport.abort()


async def test_accepted_sockets_inherit_their_options(front: Front) -> None:
    """The kernel keeps 32 KiB unsent and gives up on dead peers."""
    client = await dial(front)
    await client.until("welcome")
    sock = front.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 32768
    timeout = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert timeout == USER_TIMEOUT_MS
    client.cut()


async def test_a_client_that_never_reads_costs_little(front: Front) -> None:
    """Kernel and transport take a few hundred KB, then the socket is behind."""
    client = await dial(front, receive_buffer_bytes=16384)
    await client.until("welcome")
    client.pause()
    connection, frame = front.connection, websocket.text_frame(b"x" * 1000)
    accepted = 0
    while not connection.blocked:
        connection.send(frame)
        accepted += len(frame)
        assert accepted < STALLED_BYTES_MAX
        await asyncio.sleep(0)
    client.cut()


async def test_nothing_follows_a_close(front: Front) -> None:
    """Not even what is sent to the connection in the same turn."""
    client = await dial(front)
    await client.until("welcome")
    connection = front.connection
    connection.close(Disconnect.DRAINING)
    connection.send(websocket.text_frame(b"{}"))
    ended = await client.wait_ended()
    assert ended.code == Disconnect.DRAINING.code
    assert client.fault is None


async def test_a_drain_closes_everybody_with_a_delay(front: Front) -> None:
    """Each client is told to come back, and when."""
    client = await dial(front)
    await client.until("welcome")
    hurry = asyncio.Event()
    hurry.set()
    await front.worker.drain(hurry)
    closing = await client.until("closing")
    assert closing["data"]["code"] == Disconnect.DRAINING.code
    assert closing["data"]["retry"] is True
    assert closing["data"]["delay_ms"] >= 0
    with pytest.raises(Refused) as refused:
        await dial(front)
    assert refused.value.status == 503


# Refusals.


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminal refusals do not wait for seconds."""
    monkeypatch.setattr(module, "TERMINAL_DELAY_S", (0.01, 0.02))


FOREIGN = [("Origin", "http://evil.example")]


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/v1/ws/s1", FOREIGN, Disconnect.FORBIDDEN),
        ("/v1/nothing", [], Disconnect.NOT_FOUND),
    ],
)
async def test_a_browser_learns_a_terminal_refusal_from_the_code(
    front: Front,
    at_once: None,
    path: str,
    headers: list[tuple[str, str]],
    reason: Disconnect,
) -> None:
    """Accepted, told, and closed with a code that says: do not come back."""
    del at_once
    client = await dial(front, path, headers=headers)
    assert client.subprotocol == "broker.v1"
    closing = await client.frame()
    assert closing["data"] == {
        "code": reason.code,
        "reason": reason.label,
        "retry": False,
    }
    ended = await client.wait_ended()
    assert ended.code == reason.code
    assert not front.worker.reception.connections


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/v1/ws/s1", FOREIGN, 403), ("/v1/nothing", [], 404)],
)
async def test_others_learn_it_from_the_status(
    front: Front, path: str, headers: list[tuple[str, str]], status: int
) -> None:
    """Who does not offer broker.v1 can read HTTP."""
    with pytest.raises(Refused) as refused:
        await dial(front, path, headers=headers, subprotocols=())
    assert refused.value.status == status


async def test_accepting_only_to_close_is_rate_limited(
    front: Front, at_once: None
) -> None:
    """A client that goes on all the same costs no more than a plain answer."""
    del at_once
    answers = []
    for _ in range(module.TERMINAL_BURST + 5):
        try:
            client = await dial(front, "/v1/ws/s1", headers=FOREIGN)
            client.cut()
            answers.append(101)
        except Refused as refusal:
            answers.append(refusal.status)
    assert answers[: module.TERMINAL_BURST] == [101] * module.TERMINAL_BURST
    assert answers[-1] == 403


async def test_temporary_refusals_come_before_the_upgrade(front: Front) -> None:
    """503 with a time to come back, so clients do not return without a pause."""
    front.board.set(READER_ROW, b.REDIS_UP, 0)
    with pytest.raises(Refused) as refused:
        await dial(front)
    assert refused.value.status == 503
    assert int(refused.value.headers["retry-after"]) > 0
    assert refused.value.json()["error"]["code"] == "unavailable"


async def test_an_event_source_is_told_to_come_back(front: Front) -> None:
    """Any status but 200 is final for it: a temporary refusal is 200 and retry."""
    front.board.set(READER_ROW, b.REDIS_UP, 0)
    answer = await http.get(front.address, "/v1/sse/s1")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.startswith(b"retry: ")


async def test_an_event_source_is_told_to_stay_away(front: Front) -> None:
    """204 is what makes it give up."""
    headers = {"Origin": "http://evil.example"}
    answer = await http.get(front.address, "/v1/sse/s1", headers=headers)
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("where", ["subprotocol", "query", "header", "line", "long"])
async def test_a_token_is_never_repeated(
    front: Front,
    where: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in an answer nor in anything that is printed."""
    canary = "canary0123456789abcdef"
    head = request_head(front.address, "/v1/ws/s1", wire.new_key())
    end = b"\r\n\r\n"
    token = b"Authorization: Bearer " + canary.encode()
    offer = b"Sec-WebSocket-Protocol: other, bearer." + canary.encode()
    requests = {
        "subprotocol": head.replace(end, b"\r\n" + offer + end),
        "query": head.replace(b" HTTP", b"?token=" + canary.encode() + b" HTTP"),
        "header": head.replace(end, b"\r\n" + token + b"\x00" + end),
        "line": token + b" " + head,
        "long": head.replace(end, b"\r\n" + token + b"x" * 9000 + end),
    }
    reader, writer = await asyncio.open_connection(*front.address)
    writer.write(requests[where])
    async with asyncio.timeout(5):
        answer = await reader.read(65536)
    writer.transport.abort()
    printed = capfd.readouterr()
    assert answer.startswith(b"HTTP/1.")
    assert canary.encode() not in answer
    assert canary not in printed.out + printed.err + caplog.text
