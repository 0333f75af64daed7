from __future__ import annotations

from loadtest.fleet import dialects, wire
from loadtest.fleet.dialects import Dialect, Spec


def test_resuming_client_names_its_position() -> None:
    """A client that comes back asks for what it missed, a new one for nothing."""
    returning = Spec(session="s1", after="1763700000000-0")

    assert (
        dialects.path(Dialect.BROKER, returning)
        == "/v1/ws/s1?last_event_id=1763700000000-0"
    )
    assert dialects.path(Dialect.BROKER, Spec(session="s1")) == "/v1/ws/s1"


def test_client_of_a_user_says_whose_it_is() -> None:
    """The load tests run without tokens."""
    assert (
        dialects.path(Dialect.BROKER, Spec(session="s", user="u")) == "/v1/ws/s?user=u"
    )
    both = Spec(session="s", user="u", after="1-0")

    assert dialects.path(Dialect.BROKER, both) == "/v1/ws/s?last_event_id=1-0&user=u"


def test_client_of_many_sessions_connects_to_none() -> None:
    """It subscribes by command."""
    spec = Spec(sessions=["a", "b"])

    assert dialects.path(Dialect.BROKER, spec) == "/v1/ws"
    assert dialects.subscribe_frames(spec.sessions).count(b'"cmd":"subscribe"') == 2


def test_nats_client_subscribes_in_one_masked_binary_frame() -> None:
    """NATS over WebSocket is the same text in binary frames."""
    frame = dialects.greeting(Dialect.NATS, Spec(session="s7"))

    assert frame[0] == 0x80 | wire.BINARY
    assert frame[1] & 0x80
    assert frame.endswith(b"SUB s7 1\r\nPING\r\n")
