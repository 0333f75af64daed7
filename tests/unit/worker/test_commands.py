"""What clients say in ``broker.v1``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
import pytest

from broker.config import load_settings
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.protocols.native import ClientFrame
from broker.worker import requests as module
from broker.worker.commands import ERRORS_MAX, Commands
from broker.worker.connection import Connection
from broker.worker.entrance import Entrance
from broker.worker.limits import Limits
from broker.worker.requests import Requests
from tests.fakes import FakeClock
from tests.unit.worker.parts import SESSION, Bench, Listener

Say = Callable[..., None]
LIMITS = {
    "BROKER_MAX_SUBSCRIPTIONS_PER_CONNECTION": "3",
    "BROKER_SUBSCRIBE_RATE_PER_S": "1",
}


class Talk:
    """One connection and the commands that answer it."""

    def __init__(self, bench: Bench) -> None:
        settings = load_settings(LIMITS, env_file=None)
        self.bench = bench
        self.listener = Listener(bench.worker)
        self.full = ""
        nobody = cast("Any", None)
        requests = Requests(
            settings,
            bench.worker.subscriptions,
            Limits(settings),
            Entrance(settings, bench.worker_values, nobody, nobody),
            nobody,
            nobody,
            lambda _session: self.full,
        )
        self._commands = Commands(bench.worker_values, requests.handlers, _nothing)

    def say(self, cmd: str, ref: str | None = None, **data: object) -> dict[str, Any]:
        """Say a command; the last frame that is answered, empty if there is none."""
        frame: dict[str, object] = {"cmd": cmd, "data": data}
        if ref is not None:
            frame["id"] = ref
        return self.say_raw(orjson.dumps(frame))

    def say_raw(self, text: bytes) -> dict[str, Any]:
        before = len(self.listener.frames)
        with self.bench.worker.loop.running():
            self._commands.handle(self.listener, text)
        self.bench.worker.loop.settle()
        answered = self.listener.frames[before:]
        return answered[-1] if answered else {}


def _nothing(connection: Connection, frame: ClientFrame) -> None:
    """An application command that nobody waits for."""
    del connection, frame


@pytest.fixture
def talk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Talk:
    monkeypatch.setattr(module, "time", bench.clock)
    return Talk(bench)


def code(answer: dict[str, Any]) -> str:
    assert answer["event"] == "error"
    found: str = answer["data"]["code"]
    return found


def test_ping_is_answered_with_its_ref(talk: Talk) -> None:
    """With the id of the command where it had one."""
    assert talk.say("ping", "c1") == {"event": "pong", "data": {"ref": "c1"}}
    assert talk.say("ping") == {"event": "pong", "data": {}}


def test_subscribing_is_answered_when_the_session_is_read(talk: Talk) -> None:
    """The ref stands in ``subscribed``."""
    assert talk.say("subscribe", "c1", session=SESSION) == {}
    talk.bench.join(0)
    assert talk.listener.last("subscribed")["ref"] == "c1"


def test_a_second_subscription_is_an_error(talk: Talk) -> None:
    """It is no second replay; the first goes on."""
    talk.say("subscribe", session=SESSION)
    answer = talk.say("subscribe", "c2", session=SESSION)
    assert code(answer) == "already_subscribed"
    assert answer["data"]["ref"] == "c2"
    assert SESSION in talk.listener.subs


def test_unsubscribing_is_answered(talk: Talk) -> None:
    """And after it the session may be subscribed anew."""
    talk.say("subscribe", session=SESSION)
    assert talk.say("unsubscribe", "c2", session=SESSION) == {
        "event": "unsubscribed",
        "session": SESSION,
        "data": {"ref": "c2"},
    }
    assert code(talk.say("unsubscribe", session=SESSION)) == "not_subscribed"
    assert talk.say("subscribe", session=SESSION) == {}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "bad_session"),
        ({"session": 5}, "bad_session"),
        ({"session": "_probe:x"}, "bad_session"),
        ({"session": "a b"}, "bad_session"),
        ({"session": "s", "last_event_id": "x"}, "bad_position"),
        ({"session": "s", "overflow": "x"}, "bad_position"),
        ({"session": "s", "since": "x"}, "bad_position"),
    ],
)
def test_bad_arguments_are_refused(
    talk: Talk, data: dict[str, Any], expected: str
) -> None:
    """The connection stays, nothing is subscribed."""
    assert code(talk.say("subscribe", **data)) == expected
    assert not talk.listener.subs
    assert talk.bench.worker_values[catalog.CLIENT_ERRORS.slots[expected]] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{", "bad_json"),
        (b"[]", "bad_frame"),
        (b'{"cmd":5}', "bad_frame"),
        (b'{"cmd":"auth"}', "already_authenticated"),
        (b'{"cmd":"ack"}', "not_subscribed"),
    ],
)
def test_bad_frames_are_answered(talk: Talk, text: bytes, expected: str) -> None:
    """With a code that a program can act on."""
    assert code(talk.say_raw(text)) == expected
    assert talk.listener.closing is None


def test_too_many_bad_frames_close(talk: Talk) -> None:
    """A client that does nothing but err is told not to come back."""
    for _ in range(ERRORS_MAX):
        assert talk.listener.closing is None
        talk.say_raw(b"{")
    assert talk.listener.closing is Disconnect.TOO_MANY_ERRORS


def test_subscriptions_per_connection_are_bounded(talk: Talk) -> None:
    """The bound is told, and a place becomes free."""
    for number in range(3):
        assert talk.say("subscribe", session=f"s{number}") == {}
    talk.bench.clock.advance(10)
    answer = talk.say("subscribe", session="more")
    assert code(answer) == "too_many_subscriptions"
    talk.say("unsubscribe", session="s0")
    assert talk.say("subscribe", session="more") == {}


def test_the_subscribe_rate_is_bounded(talk: Talk) -> None:
    """A burst as large as the bound, then one per second."""
    for _ in range(3):
        talk.say("subscribe", session=SESSION)
        talk.say("unsubscribe", session=SESSION)
    assert code(talk.say("subscribe", session=SESSION)) == "rate_limited"
    talk.bench.clock.advance(1)
    assert talk.say("subscribe", session=SESSION) == {}


def test_a_full_pod_takes_no_new_sessions(talk: Talk, clock: FakeClock) -> None:
    """The client may try again later."""
    del clock
    talk.full = "unavailable"
    assert code(talk.say("subscribe", session=SESSION)) == "unavailable"
