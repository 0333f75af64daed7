"""When a V0 client is told that it is connected, and how it is shown out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from broker.disconnect import Disconnect
from broker.protocols import websocket
from broker.protocols.formats import Format
from broker.protocols.native import BadFrame
from broker.protocols.openhands import v0
from broker.worker.connection import Connection
from broker.worker.dialect import close_frame
from broker.worker.edges.openhands_v0 import V0Dialect

CONNECTED = websocket.text_frame(b'40{"sid":"abc"}')
STATE = v0.oh_event_frame(b'{"observation":"agent_state_changed"}')
NEWER = v0.oh_event_frame(b'{"id":7,"observation":"agent_state_changed"}')


class Sink:
    """What the dialect needs of a connection."""

    connection_id = "abc"
    session = "c1"

    def __init__(self) -> None:
        self.format: Format = v0.JOINING
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)


class Talk:
    """A dialect and the connection that it is spoken on."""

    def __init__(self, *, refusal: bytes = b"") -> None:
        self.sink = Sink()
        self.dialect = V0Dialect(cast("Any", None), "from the URL", refusal)
        self.connection = cast("Connection", self.sink)

    def notify(self, event: str, **data: object) -> None:
        self.dialect.notify(self.connection, event, data, "c1")

    def ask(self) -> str | None:
        return self.dialect.read_token(b"40")

    def join(self) -> None:
        self.ask()
        self.notify("caught_up")
        self.sink.sent.clear()

    def farewell(self, reason: Disconnect) -> tuple[bytes, bytes]:
        farewell = self.dialect.farewell(self.connection, reason, {})
        assert farewell is not None
        return farewell


def refusal_of(reason: Disconnect) -> bytes:
    return websocket.text_frame(v0.refusal_packet(reason, "c1", {}))


def test_a_client_is_connected_when_it_has_caught_up() -> None:
    """Behind everything else comes how the agent stands, then the packet, once."""
    talk = Talk()
    talk.notify("welcome", connection_id="abc")
    talk.notify("subscribed", resume="complete")
    talk.dialect.hold(talk.connection, STATE)
    talk.dialect.hold(talk.connection, NEWER)
    talk.notify("caught_up")
    talk.notify("caught_up")

    assert talk.sink.sent == [NEWER + CONNECTED]
    assert talk.sink.format is v0.LIVE


def test_a_client_that_asked_for_nothing_earlier_is_connected_at_once() -> None:
    """There will be no other word."""
    talk = Talk()
    talk.notify("subscribed", resume="live")

    assert talk.sink.sent == [CONNECTED]
    assert talk.sink.format is v0.LIVE


@pytest.mark.parametrize(
    ("event", "data"), [("reset", {}), ("subscribed", {"resume": "reset"})], ids=str
)
def test_the_state_of_a_history_that_has_ended_is_not_sent(
    event: str, data: dict[str, object]
) -> None:
    """The client is told that it begins anew, and gets what is in the new one."""
    talk = Talk()
    talk.dialect.hold(talk.connection, STATE)
    talk.notify(event, **data)
    talk.notify("caught_up")

    assert talk.sink.sent == [v0.LIVE.notice("reset", {}), CONNECTED]


@pytest.mark.parametrize(
    ("packet", "token"),
    [(b"40", "from the URL"), (b"40{}", "from the URL"), (b'40{"token":"t"}', "t")],
)
def test_the_connect_packet_beats_the_url(packet: bytes, token: str) -> None:
    """Who sends a token there knows best."""
    assert Talk().dialect.read_token(packet) == token


@pytest.mark.parametrize("packet", [b"41", b"2", b"x", b"", b'42["a"]', b"40[]"])
def test_only_a_connect_packet_is_a_first_packet(packet: bytes) -> None:
    """Nothing else can carry a token."""
    with pytest.raises(BadFrame):
        Talk().dialect.read_token(packet)


@pytest.mark.parametrize(
    "reason", [reason for reason in Disconnect if reason.retry], ids=str
)
def test_who_may_come_back_sees_only_the_transport_close(reason: Disconnect) -> None:
    """A packet would keep its library away, whether it was connected or not."""
    asking, joined = Talk(), Talk()
    asking.ask()
    joined.join()

    assert asking.farewell(reason) == (b"", close_frame(reason))
    assert joined.farewell(reason) == (b"", close_frame(reason))


@pytest.mark.parametrize(
    "reason", [reason for reason in Disconnect if reason.code >= 4500], ids=str
)
def test_who_may_not_connect_is_refused_by_a_packet(reason: Disconnect) -> None:
    """Its library closes the socket; the broker waits a moment for that."""
    talk = Talk()
    talk.ask()

    assert talk.farewell(reason) == (b"", refusal_of(reason))


def test_what_was_wrong_with_the_request_is_the_refusal() -> None:
    """It is known before the client asks."""
    talk = Talk(refusal=b'44{"message":"no"}')
    with pytest.raises(BadFrame):
        talk.ask()

    assert talk.farewell(Disconnect.UNAUTHORIZED) == (
        b"",
        websocket.text_frame(b'44{"message":"no"}'),
    )


def test_who_has_not_asked_is_not_refused() -> None:
    """Its library knows of no namespace yet."""
    unauthorized = Disconnect.UNAUTHORIZED

    assert Talk().farewell(unauthorized) == (b"", close_frame(unauthorized))


@pytest.mark.parametrize(
    "reason", [Disconnect.REVOKED, Disconnect.SESSION_CLOSED, Disconnect.TOKEN_EXPIRED]
)
def test_who_must_stay_away_is_told_why_and_disconnected(reason: Disconnect) -> None:
    """An error that the page can show, then the packet that ends its library."""
    talk = Talk()
    talk.join()

    assert talk.farewell(reason) == (
        v0.error_frame(reason.text) + v0.DISCONNECT_FRAME,
        close_frame(reason),
    )


def test_an_evicted_client_gets_the_notice_that_upstream_sends() -> None:
    """Instead of an error of ours."""
    talk = Talk()
    talk.join()
    evicted = Disconnect.SESSION_EVICTED

    assert talk.farewell(evicted) == (
        v0.TOO_MANY_FRAME + v0.DISCONNECT_FRAME,
        close_frame(evicted),
    )


def test_who_leaves_is_told_nothing() -> None:
    """It has said goodbye itself."""
    talk = Talk()
    talk.join()

    assert talk.farewell(Disconnect.NORMAL) == (b"", close_frame(Disconnect.NORMAL))


def test_who_breaks_the_protocol_is_told_how_once_it_is_connected() -> None:
    """Before that its library would take an event for part of a replay."""
    asking, joined = Talk(), Talk()
    asking.ask()
    joined.join()
    reason = Disconnect.FRAME_TOO_BIG

    assert asking.farewell(reason) == (b"", close_frame(reason))
    assert joined.farewell(reason) == (v0.error_frame(reason.text), close_frame(reason))
