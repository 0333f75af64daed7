"""Clients that break the rules get a clear answer and disturb nobody."""

from __future__ import annotations

import asyncio
import re
import struct

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness import http, wire
from tests.harness.client import Address, Refused, WebSocketClient, request_head
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer


async def raw_answer(address: Address, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send *data* and read one answer, or until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    received = b""
    try:
        async with asyncio.timeout(timeout_s):
            while not is_whole(received) and (part := await reader.read(65536)):
                received += part
    except ConnectionResetError:
        pass
    finally:
        writer.transport.abort()
    return received


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head.lower())
    return bool(found and length and len(body) >= int(length[1]))


async def open_socket(broker: BrokerServer, session: str) -> WebSocketClient:
    client = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
    await client.until("subscribed")
    return client


@pytest.mark.parametrize(
    "name",
    ["_probe", ".a", "-a", "a b", "a/b", "é", "x" * 129, "a%00b", "a{b}", "a\\b", "%"],
)
@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_unknown_session_characters_are_refused(
    broker: BrokerServer, name: str, protocol: str
) -> None:
    """A name outside the allowed set is 400 or 404 before the upgrade."""
    quoted = name.replace("%", "%25").replace(" ", "%20").replace("é", "%C3%A9")
    quoted = quoted.replace("{", "%7B").replace("}", "%7D").replace("\\", "%5C")
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            broker.public, f"/v1/{protocol}/{quoted}", subprotocols=()
        )

    assert refused.value.status in (400, 404)
    assert isinstance(refused.value.json(), dict)


@pytest.mark.parametrize("name", ["a", "A9._:@-z", "x" * 128, "user@example.com:1"])
async def test_allowed_session_characters_are_accepted(
    broker: BrokerServer, watch: NewWatcher, author: Author, name: str
) -> None:
    """Every allowed character works, the greatest length too."""
    watcher = await watch(broker, name).open()
    await author.redis.delete(f"broker:events:{name}")
    await author.publish(name)
    frame = await watcher.next("tick")

    assert frame["session"] == name


@pytest.mark.parametrize("version", ["12", "14", "8", "0", "x", ""])
async def test_wrong_version_of_the_upgrade_is_426(
    broker: BrokerServer, session: str, version: str
) -> None:
    """RFC 6455 section 4.4: the answer names the version that is spoken."""
    head = request_head(broker.public, f"/v1/ws/{session}", wire.new_key())
    head = head.replace(b"Version: 13", f"Version: {version}".encode())
    answer = await raw_answer(broker.public, head)

    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"sec-websocket-version: 13\r\n" in answer.lower()


async def test_request_without_upgrade_is_426(
    broker: BrokerServer, session: str
) -> None:
    """A plain GET to a WebSocket address is told to upgrade."""
    response = await http.get(broker.public, f"/v1/ws/{session}")

    assert response.status == 426
    assert isinstance(response.json(), dict)


@pytest.mark.parametrize("key", ["", "short", "!" * 24, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="])
async def test_bad_key_of_the_upgrade_is_400(
    broker: BrokerServer, session: str, key: str
) -> None:
    """RFC 6455 section 4.2.1: the key is 16 bytes in base64."""
    head = request_head(broker.public, f"/v1/ws/{session}", key)
    answer = await raw_answer(broker.public, head)

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_unknown_address_is_404(broker: BrokerServer) -> None:
    """Nothing else is served on the public port."""
    for path in ("/", "/v1", "/v2/ws/s", "/metrics", "/healthz"):
        response = await http.get(broker.public, path)

        assert response.status == 404, path
        assert isinstance(response.json(), dict)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wire.client_frame(wire.TEXT, b"{}", masked=False), 1002),
        (wire.client_frame(wire.TEXT, b"{}", rsv=4), 1002),
        (wire.client_frame(0x3, b""), 1002),
        (wire.client_frame(0xB, b""), 1002),
        (wire.client_frame(wire.PING, b"x" * 126), 1002),
        (wire.client_frame(wire.PING, b"x", fin=False), 1002),
        (wire.client_frame(wire.CONTINUATION, b"x"), 1002),
        (wire.client_frame(wire.TEXT, b"a", fin=False) * 2, 1002),
        (wire.client_frame(wire.TEXT, b'"\xff"'), 1007),
        (wire.client_frame(wire.CLOSE, b"\x03"), 1002),
        (wire.client_frame(wire.CLOSE, struct.pack("!H", 1005)), 1002),
        (wire.client_frame(wire.CLOSE, struct.pack("!H", 999)), 1002),
        (wire.client_frame(wire.TEXT, b" " * 70_000), 1009),
    ],
    ids=[
        "unmasked",
        "rsv",
        "reserved-opcode",
        "reserved-control",
        "large-ping",
        "fragmented-ping",
        "continuation-of-nothing",
        "text-in-fragments",
        "not-utf8",
        "close-of-one-byte",
        "close-1005",
        "close-999",
        "too-large",
    ],
)
async def test_broken_frames_close_with_their_code(
    broker: BrokerServer, session: str, data: bytes, code: int
) -> None:
    """Each violation has the close code of RFC 6455 section 7.4.1."""
    client = await open_socket(broker, session)
    client.send_raw(data)
    ended = await client.wait_ended()

    assert ended.code == code
    assert client.fault is None


async def test_fragments_without_end_are_cut_at_the_limit(
    broker: BrokerServer, session: str
) -> None:
    """The sum over the fragments counts, so memory is bounded."""
    client = await open_socket(broker, session)
    client.send_raw(wire.client_frame(wire.TEXT, b"[", fin=False))
    for _ in range(200):
        client.send_raw(wire.client_frame(wire.CONTINUATION, b" " * 1000, fin=False))
    ended = await client.wait_ended()

    assert ended.code == 1009


async def test_announced_huge_frame_is_refused_without_waiting_for_it(
    broker: BrokerServer, session: str
) -> None:
    """The length alone is enough to refuse."""
    client = await open_socket(broker, session)
    client.send_raw(b"\x81\xff" + struct.pack("!Q", 2**62) + b"abcd")
    ended = await client.wait_ended()

    assert ended.code == 1009


async def test_fragments_are_joined(broker: BrokerServer) -> None:
    """A command in three fragments with a ping in between is one command."""
    client = await WebSocketClient.connect(broker.public, "/v1/ws")
    client.send_raw(wire.client_frame(wire.TEXT, b'{"cmd":"pi', fin=False))
    client.send_raw(wire.client_frame(wire.PING, b"now"))
    client.send_raw(wire.client_frame(wire.CONTINUATION, b'ng","id":', fin=False))
    client.send_raw(wire.client_frame(wire.CONTINUATION, b'"f"}'))
    pong = await client.until("pong")
    client.cut()

    assert pong["data"] == {"ref": "f"}
    assert client.pongs == [b"now"]


async def test_frames_byte_by_byte_are_understood(broker: BrokerServer) -> None:
    """TCP may split anything anywhere."""
    client = await WebSocketClient.connect(broker.public, "/v1/ws")
    for byte in wire.client_frame(wire.TEXT, b'{"cmd":"ping","id":"slow"}'):
        client.send_raw(bytes([byte]))
        await asyncio.sleep(0.002)
    pong = await client.until("pong")
    client.cut()

    assert pong["data"] == {"ref": "slow"}


async def test_handshake_of_one_byte_per_second_is_cut(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """A request that does not become complete in time costs no socket for long."""
    broker = start_broker(shared_redis.url, handshake_s=1.5)
    head = request_head(broker.public, f"/v1/ws/{session}", wire.new_key())
    reader, writer = await asyncio.open_connection(*broker.public)
    loop = asyncio.get_running_loop()
    start = loop.time()
    reading = asyncio.create_task(reader.read())
    for byte in head:
        writer.write(bytes([byte]))
        await asyncio.wait([reading], timeout=0.3)
        if reading.done():
            break
    took = loop.time() - start
    answer = await asyncio.gather(reading, return_exceptions=True)
    writer.transport.abort()

    assert 1.0 < took < 6.0
    assert b" 101 " not in (answer[0] if isinstance(answer[0], bytes) else b"")


async def test_silent_connection_is_cut(
    start_broker: StartBroker, shared_redis: EmbeddedServer
) -> None:
    """A connection that never sends a request is closed after the same time."""
    broker = start_broker(shared_redis.url, handshake_s=1)
    reader, writer = await asyncio.open_connection(*broker.public)
    async with asyncio.timeout(5):
        received = await asyncio.gather(reader.read(), return_exceptions=True)
    writer.transport.abort()

    assert not isinstance(received[0], bytes) or b" 101 " not in received[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"\x00" * 2000,
        b"HELO there\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\xff" * 70_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["tls", "zeros", "words", "no-path", "version", "ff", "http2"],
)
async def test_garbage_on_the_port_is_closed(
    broker: BrokerServer, garbage: bytes
) -> None:
    """What is no HTTP/1.1 gets 400 at most, and the connection ends."""
    broker.allowed.append("bad_request|Error handling request|BadStatusLine")
    answer = await raw_answer(broker.public, garbage, timeout_s=12)

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))


async def test_bad_clients_do_not_disturb_a_good_one(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """While others misbehave a good client on each worker gets everything."""
    good = [await watch(broker, session).open() for _ in range(8)]
    for i in range(20):
        bad = await open_socket(broker, session)
        bad.send_raw(b"\x81\x05hello" if i % 2 else b"\xff" * 50)
        await author.publish(session, 5)
        await bad.wait_ended()
    await author.publish(session, event="end")
    for watcher in good:
        await watcher.next("end")

    assert all(len(watcher.events) == 101 for watcher in good)
