"""What clients of OpenHands V1 are told of the state, and how they are shown out."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.disconnect import Disconnect
from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics.slots import Row
from broker.model import Position, StreamId
from broker.protocols.openhands.v1_formats import EVENTS, SESSION
from broker.worker.channels import Start, StartAt
from broker.worker.edges import openhands_sockets as module
from broker.worker.edges.openhands_sockets import (
    Desk,
    EventsDialect,
    SessionDialect,
    close_as_openhands,
    last_words,
)
from broker.worker.snapshots import UNKNOWN, Look, Snapshot, Status
from tests.unit.protocols.peer import read_server_frames

SESSION_NAME = "c1"
PYTHON_STOPS_AT = {4001, 4004}
PYTHON_STORMS_AFTER = {1000, 1001}


class ScriptedSnapshots:
    """Answers with one look or error after the other, and then with the last one.

    Attributes:
        asked: How often.
    """

    def __init__(self, *answers: Look | Exception, known: Look = UNKNOWN) -> None:
        self._answers = list(answers)
        self._known = known
        self.asked = 0

    def known(self, session: str) -> Look:
        return self._known

    async def newest(self, session: str) -> Look:
        await asyncio.sleep(0)
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Client:
    """A connection at a tip that the test moves."""

    def __init__(self, tip: StreamId) -> None:
        self.sent = b""
        self.open = True
        self.session = SESSION_NAME
        self.channel = SimpleNamespace(tip=Position(tip))
        self.subs = {SESSION_NAME: SimpleNamespace(channel=self.channel)}
        self.format = EVENTS

    def send(self, data: bytes) -> None:
        self.sent += data

    @property
    def states(self) -> list[object]:
        """The values of the states that it was sent since the last call."""
        frames = read_server_frames(self.sent)
        self.sent = b""
        events = [json.loads(text) for _opcode, text in frames]
        return [event.get("event", event)["value"] for event in events]


def shown(ms: int, value: object = None) -> Snapshot:
    return Snapshot((ms, 0), json.dumps({"value": value or ms}).encode())


def look(
    tip: int, snapshot: Snapshot | None = None, status: Status | None = None
) -> Look:
    return Look(Position((tip, 0)), snapshot, status)


def desk(values: Row, snapshots: ScriptedSnapshots) -> Desk:
    return Desk(values, cast("Any", None), cast("Any", snapshots))


def caught_up(dialect: EventsDialect | SessionDialect, client: Client, ms: int) -> None:
    data = {"position": f"{ms}-0@{ms}", "replayed": 0}
    dialect.notify(cast("Any", client), "caught_up", data, SESSION_NAME)


def greeted(values: Row, client: Client, first: Look, *later: Look | Exception) -> Any:
    """A client of the events socket that was told a first state."""
    snapshots = ScriptedSnapshots(*(later or (first,)), known=first)
    dialect = EventsDialect(desk(values, snapshots))
    dialect.prepare(first, Start(at=StartAt.POSITION, position=first.tip))
    dialect.notify(cast("Any", client), "welcome", {}, None)
    assert client.states
    return dialect, snapshots


async def settle(dialect: Any) -> None:
    """Let everything be done that was begun."""
    await asyncio.gather(*dialect._desk._tasks)


# The state.


async def test_nothing_is_read_if_nothing_was_published_since(values: Row) -> None:
    """A client that has just come is at the end that was looked at."""
    client = Client((5, 0))
    dialect, snapshots = greeted(values, client, look(5, shown(3)))
    caught_up(dialect, client, 5)
    await settle(dialect)

    assert client.states == []
    assert snapshots.asked == 0


async def test_a_state_published_meanwhile_is_told(values: Row) -> None:
    """With the status that came after it."""
    client = Client((9, 0))
    newer = look(9, shown(7), Status((8, 0), "paused", transient=False))
    dialect, _ = greeted(values, client, look(5, shown(3)), newer)
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert client.states == [7, "paused"]


async def test_a_state_that_comes_live_is_not_told_before_it(values: Row) -> None:
    """What is after the position comes by itself."""
    client = Client((9, 0))
    dialect, _ = greeted(values, client, look(5, shown(3)), look(12, shown(11)))
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert client.states == []


async def test_a_look_that_live_events_have_overtaken_is_repeated(values: Row) -> None:
    """Else an older state could be told after a newer one."""
    client = Client((14, 0))
    overtaken, fresh = look(9, shown(7)), look(14, shown(13))
    dialect, snapshots = greeted(
        values, client, look(5, shown(3)), overtaken, overtaken, fresh
    )
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert snapshots.asked == 3
    assert client.states == []


async def test_a_stream_that_never_rests_is_looked_at_a_few_times(values: Row) -> None:
    """Then the newest state that was seen is told."""
    client = Client((99, 0))
    dialect, snapshots = greeted(values, client, look(5), look(50, shown(7)))
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert snapshots.asked == module.LOOKS_MAX
    assert client.states == [7]


async def test_a_transient_status_is_told_if_no_snapshot_is_newer(values: Row) -> None:
    """One that is kept was replayed already."""
    for transient, expected in ((True, ["paused"]), (False, [])):
        client = Client((9, 0))
        status = Status((8, 0), "paused", transient)
        first = look(5, shown(3))
        dialect, _ = greeted(values, client, first, look(9, shown(3), status))
        caught_up(dialect, client, 9)
        await settle(dialect)

        assert client.states == expected


async def test_a_newer_status_is_told_first_unless_it_is_replayed(values: Row) -> None:
    """Where the events begin says which."""
    for begin, expected in ((2, [3]), (4, [3, "paused"])):
        client = Client((5, 0))
        first = look(5, shown(3), Status((4, 0), "paused", transient=False))
        dialect = EventsDialect(desk(values, ScriptedSnapshots(first)))
        start = Start(at=StartAt.POSITION, position=Position((begin, 0)))
        dialect.prepare(first, start)
        dialect.notify(cast("Any", client), "welcome", {}, None)

        assert client.states == expected


async def test_redis_is_asked_again_until_it_answers(
    values: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is told even if it was away when the client had caught up."""
    monkeypatch.setattr(module, "RETRY_S", 0)
    client = Client((9, 0))
    away = StoreUnavailable("away")
    dialect, snapshots = greeted(values, client, look(5), away, away, look(9, shown(7)))
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert snapshots.asked == 3
    assert client.states == [7]


async def test_nobody_is_asked_about_what_is_no_stream(values: Row) -> None:
    """The subscription ends for that reason anyway."""
    client = Client((9, 0))
    dialect, snapshots = greeted(values, client, look(5), StoreRefused("WRONGTYPE"))
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert snapshots.asked == 1
    assert client.states == []


async def test_who_has_left_is_told_nothing(values: Row) -> None:
    """However long the answer takes."""
    client = Client((9, 0))
    dialect, _ = greeted(values, client, look(5), look(9, shown(7)))
    caught_up(dialect, client, 9)
    client.open = False
    await settle(dialect)

    assert client.states == []


async def test_a_state_that_did_not_come_live_after_all_is_told(values: Row) -> None:
    """The client lagged again before it came, so it was left out once more."""
    client = Client((9, 0))
    dialect, _ = greeted(values, client, look(5), look(9, shown(9)))
    caught_up(dialect, client, 8)
    await settle(dialect)
    before = client.states
    caught_up(dialect, client, 9)
    await settle(dialect)

    assert before == []
    assert client.states == [9]


async def test_a_client_that_lags_again_and_again_is_told_once(
    values: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last time that it catches up goes on asking while Redis is away."""
    monkeypatch.setattr(module, "RETRY_S", 0)
    client = Client((12, 0))
    away = StoreUnavailable("away")
    dialect, snapshots = greeted(
        values, client, look(5), away, away, away, look(12, shown(7))
    )
    for ms in (8, 10, 12):
        caught_up(dialect, client, ms)
    await settle(dialect)

    assert snapshots.asked == 4
    assert client.states == [7]


async def test_the_session_socket_tells_a_state_in_any_case(values: Row) -> None:
    """When its client has caught up for the first time."""
    client = Client((5, 0))
    snapshots = ScriptedSnapshots(look(5), known=look(5))
    dialect = SessionDialect(desk(values, snapshots), -1)
    caught_up(dialect, client, 5)
    first = client.states
    caught_up(dialect, client, 5)

    assert first == ["idle"]
    assert client.states == []


async def test_a_reset_at_the_beginning_is_told(values: Row) -> None:
    """On the session socket after the sync, which is always first."""
    data = {"resume": "reset", "from": "0-0@0", "tip": "5-0@3"}
    client = Client((5, 0))
    shared = desk(values, ScriptedSnapshots(UNKNOWN))
    for dialect in (EventsDialect(shared), SessionDialect(shared, -1)):
        dialect.notify(cast("Any", client), "subscribed", data, SESSION_NAME)
    event, sync, error = (
        json.loads(text) for _opcode, text in read_server_frames(client.sent)
    )

    assert event["code"] == error["code"] == "HistoryReset"
    assert sync == {"type": "sync", "from_seq": -1, "through_seq": 2}


# The end.


@pytest.mark.parametrize("reason", Disconnect)
def test_every_close_makes_python_clients_do_what_is_meant(reason: Disconnect) -> None:
    """They stop at what is for good, and never come back without a pause."""
    ((_opcode, payload),) = read_server_frames(close_as_openhands(reason))
    code = int.from_bytes(payload[:2], "big")
    for_good = reason.code >= 4500 and reason not in (
        Disconnect.TOO_MANY_ERRORS,
        Disconnect.CONNECTION_REPLACED,
    )

    assert code not in PYTHON_STORMS_AFTER
    assert (code in PYTHON_STOPS_AT) is for_good
    assert code < 4000 or for_good


@pytest.mark.parametrize("wire", [EVENTS, SESSION], ids=["events", "session"])
def test_only_what_a_code_does_not_explain_is_said(wire: Any) -> None:
    """Which session takes the place of an evicted one."""
    evicted = last_words(wire, Disconnect.SESSION_EVICTED, {"replaced_by": "c2"})
    closed = last_words(wire, Disconnect.SESSION_CLOSED, {})

    assert b'"SessionEvicted"' in evicted
    assert b"c2" in evicted
    assert b'"SessionClosed"' in closed
    assert last_words(wire, Disconnect.DRAINING, {"delay_ms": 7}) == b""
