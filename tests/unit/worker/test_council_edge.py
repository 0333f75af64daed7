"""How the hub lets clients in and go, apart from what a real server shows."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from broker.config import Settings, load_settings
from broker.control.identity import Identity, Right, Sessions, everybody
from broker.disconnect import Disconnect
from broker.errors import StoreUnavailable
from broker.metrics.slots import Row
from broker.store.session_outcomes import Record, State
from broker.worker.commands import ERRORS_MAX, Commands
from broker.worker.connection import Connection
from broker.worker.edges.council import (
    HELD_MAX,
    HOLD_S,
    PROMPT_BURST,
    CouncilDialect,
    CouncilEdge,
)
from broker.worker.edges.council_visit import Visit, most_sessions
from broker.worker.edges.parts import Parts
from broker.worker.handshake import Refusal, Wanted
from broker.worker.starting import Reading
from tests.unit.protocols.peer import read_server_frames

NOBODY = cast("Any", None)
ADA = everybody("ada")


class Line(Connection):
    """A connection that keeps what it is sent."""

    def __init__(self, dialect: CouncilDialect) -> None:
        super().__init__(NOBODY, dialect, ADA, "")
        self.sent: list[dict[str, Any]] = []
        self.closed: list[Disconnect] = []

    def send(self, data: bytes) -> None:
        self.sent += [orjson.loads(text) for _, text in read_server_frames(data)]

    def close(self, reason: Disconnect, **details: object) -> None:
        self.closed.append(reason)


@pytest.fixture
def dialect(values: Row) -> CouncilDialect:
    return CouncilDialect(Commands(values, {}, NOBODY))


@pytest.fixture
def line(dialect: CouncilDialect) -> Line:
    return Line(dialect)


# How clients are let go of.

IN_ORDER = {
    Disconnect.DRAINING: 1012,
    Disconnect.NORMAL: 1000,
    Disconnect.PROTOCOL_ERROR: 1002,
    Disconnect.UNSUPPORTED_DATA: 1003,
    Disconnect.INVALID_PAYLOAD: 1007,
    Disconnect.FRAME_TOO_BIG: 1009,
}


@pytest.mark.parametrize("reason", IN_ORDER)
def test_few_reasons_close_in_order(
    dialect: CouncilDialect, line: Line, reason: Disconnect
) -> None:
    """A drain, where coming back at once is right, and faults of the WebSocket."""
    farewell = dialect.farewell(line, reason, {"delay_ms": 5})
    assert farewell is not None
    ((opcode, payload),) = read_server_frames(farewell.words + farewell.close)

    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, IN_ORDER[reason])


@pytest.mark.parametrize("reason", [r for r in Disconnect if r not in IN_ORDER])
def test_every_other_reason_cuts(
    dialect: CouncilDialect, line: Line, reason: Disconnect
) -> None:
    """A close in order would bring the page back without a pause."""
    assert dialect.farewell(line, reason, {}) is None


def test_who_could_not_be_subscribed_for_want_of_room_is_let_go(
    dialect: CouncilDialect, line: Line
) -> None:
    """It would wait for ever, and another pod may have room."""
    data = {"code": "overloaded", "message": "no", "session": "s1"}
    dialect.notify(line, "error", data)

    assert line.sent[0]["data"]["session_uuid"] == "s1"
    assert line.closed == [Disconnect.OVERLOADED]


@pytest.mark.parametrize(
    ("code", "session"), [("overloaded", "s1"), ("wrongtype", None)]
)
def test_other_errors_let_nobody_go(
    dialect: CouncilDialect, line: Line, code: str, session: str | None
) -> None:
    """A command that was refused, a stream that is none: the rest goes on."""
    dialect.notify(line, "error", {"code": code, "message": "no"}, session)

    assert line.sent[0]["data"]["code"] == code
    assert line.closed == []


def test_binary_frames_count_as_errors(dialect: CouncilDialect, line: Line) -> None:
    """Each is answered, until there are too many."""
    for _ in range(ERRORS_MAX):
        dialect.hear_binary(line, b"\0")

    assert [frame["data"]["code"] for frame in line.sent] == ["bad_frame"] * ERRORS_MAX
    assert line.closed == [Disconnect.TOO_MANY_ERRORS]


# Who asks too often.


class Sleeper:
    """Stands for ``asyncio.sleep``: who sleeps does so until the test ends it."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


class Caller:
    """A request for something that is not there."""

    def __init__(self, remote: str) -> None:
        self.remote = remote


async def ask(edge: CouncilEdge, remote: str) -> None:
    with pytest.raises(Refusal):
        await edge.handle(cast("Any", Caller(remote)), ["ws", "nothing"])


async def test_who_is_refused_without_end_waits_for_it(
    settings: Settings, values: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others do not, and only so many wait at once."""
    sleeper = Sleeper()
    monkeypatch.setattr(asyncio, "sleep", sleeper)
    edge = CouncilEdge(parts(settings, values=values))
    async with asyncio.timeout(5):
        for _ in range(PROMPT_BURST):
            await ask(edge, "10.0.0.1")
        await ask(edge, "10.0.0.2")
    asked_early = len(sleeper.asked)
    waiting = [asyncio.ensure_future(ask(edge, "10.0.0.1")) for _ in range(HELD_MAX)]
    done, _ = await asyncio.wait(waiting, timeout=0)
    one_more = [asyncio.ensure_future(ask(edge, "10.0.0.1"))]
    answered, _ = await asyncio.wait(one_more, timeout=1)
    sleeper.over.set()
    await asyncio.gather(*waiting)

    assert (asked_early, len(done), len(answered)) == (0, 0, 1)
    assert len(sleeper.asked) == HELD_MAX
    assert all(HOLD_S[0] <= seconds <= HOLD_S[1] for seconds in sleeper.asked)


# Coming in.


class Worker:
    """The host, the entrance and the plane of a worker, with what a test wants."""

    def __init__(self, *records: tuple[str, State]) -> None:
        self.values = NOBODY
        self.asks_for_tokens = False
        self.host = self
        self.up = True
        self.full = False
        self.opened: list[str] = []
        self.refusals: dict[str, Refusal] = {}
        self.places = 0
        self._records = [Record(name, 1, 1, state, 0, 1) for name, state in records]

    def __getattr__(self, name: str) -> Any:
        """What is not asked of it here."""
        return None

    async def admit(self, identity: Identity, wanted: Wanted) -> Wanted:
        self.places += 1
        return wanted

    def give_up(self, identity: Identity, wanted: Wanted) -> None:
        self.places -= 1

    def check_right(self, identity: Identity, session: str) -> None:
        if not identity.may_subscribe(session):
            raise Refusal("forbidden")

    def check_access(self, identity: Identity) -> None:
        if "access" in self.refusals:
            raise self.refusals["access"]

    async def open(self, identity: Identity, session: str, reading: Reading) -> Reading:
        if session in self.refusals:
            raise self.refusals[session]
        self.opened.append(session)
        return reading

    async def sessions_of(self, user: str) -> list[Record]:
        if not self.up:
            raise StoreUnavailable("away")
        assert user == "ada"
        return self._records

    def may_subscribe(self, user: str, already: int) -> bool:
        return not self.full

    def subscription_refusal(self, user: str) -> str:
        return "too_many_connections" if self.full else ""

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """Nobody is greeted in this protocol."""


def parts(settings: Settings, worker: Worker | None = None, **more: Any) -> Parts:
    """Parts of which only *worker* and *more* can do anything."""
    nothing: dict[str, Any] = dict.fromkeys(Parts._fields)
    parts_of_it = ("doorway", "entrance", "plane", "limits")
    host = dict.fromkeys(parts_of_it, worker)
    return Parts(**{**nothing, "settings": settings, **host, **more})


def visit(worker: Worker, sessions: list[str] | None = None, **given: object) -> Visit:
    texts = {f"BROKER_{name.upper()}": str(value) for name, value in given.items()}
    settings = load_settings(texts, env_file=None)
    return Visit(parts(settings, worker), sessions, Reading())


def own(*names: str, limit: int | None = None) -> Identity:
    """Somebody whose token names sessions."""
    rights = frozenset({Right.SUBSCRIBE})
    sessions = Sessions(frozenset(names), ("o-", "c-"))
    return Identity("ada", rights, sessions, max_sessions=limit)


@pytest.fixture
def worker() -> Worker:
    """With sessions of ada in every state; the oldest first."""
    return Worker(
        ("o-1", "open"), ("o-2", "idle"), ("o-3", "open"), ("o-4", "idle"),
        ("x-1", "open"), ("c-1", "closed"), ("c-2", "evicted"),
    )  # fmt: skip


async def test_open_sessions_come_first_then_idle_ones_then_those_of_the_token(
    worker: Worker,
) -> None:
    """What has ended is not opened again, nor what the token does not allow."""
    identity = own("n-2", "n-1", "c-1")
    await visit(worker, max_sessions_per_user=0).admit(identity, Wanted())

    assert worker.opened == ["o-1", "o-3", "o-4", "o-2", "n-1", "n-2"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_of_them_are_opened_than_may_be_open(
    worker: Worker, limit: int
) -> None:
    """One more would evict another one."""
    await visit(worker).admit(own("n-1", limit=limit), Wanted())

    assert worker.opened == ["o-1", "o-3", "o-4"][:limit]


def test_the_limit_is_that_of_the_token_or_of_the_settings() -> None:
    """And never more than one connection may read."""
    some = load_settings(
        {
            "BROKER_MAX_SESSIONS_PER_USER": "7",
            "BROKER_MAX_SUBSCRIPTIONS_PER_CONNECTION": "9",
        },
        env_file=None,
    )

    assert [most_sessions(own(limit=limit), some) for limit in (None, 2, 0, 20)] == [
        7,
        2,
        9,
        9,
    ]


async def test_an_own_session_that_has_just_ended_is_left_out(worker: Worker) -> None:
    """It was listed a moment ago; the others are read."""
    worker.refusals["o-1"] = Refusal("session_evicted")
    await visit(worker).admit(own(), Wanted())

    assert worker.opened == ["o-3", "o-4"]


@pytest.mark.parametrize("sessions", [None, ["o-1", "o-3"]])
async def test_a_place_is_given_back_if_redis_goes_away(
    worker: Worker, sessions: list[str] | None
) -> None:
    """The client comes again."""
    worker.refusals["o-3"] = Refusal("unavailable")
    with pytest.raises(Refusal) as refused:
        await visit(worker, sessions).admit(own(), Wanted())

    assert (refused.value.reason, worker.places) == ("unavailable", 0)


async def test_a_place_is_given_back_if_a_named_session_has_ended(
    worker: Worker,
) -> None:
    """Who names it means it."""
    worker.refusals["o-1"] = Refusal("session_closed")
    with pytest.raises(Refusal) as refused:
        await visit(worker, ["o-1"]).admit(own(), Wanted())

    assert (refused.value.reason, worker.places) == ("session_closed", 0)


async def test_nothing_is_opened_if_one_of_the_named_may_not_be_read(
    worker: Worker,
) -> None:
    """Opening the others might have evicted something."""
    with pytest.raises(Refusal) as refused:
        await visit(worker, ["o-1", "x-1"]).admit(own(), Wanted())

    assert (refused.value.reason, worker.opened, worker.places) == ("forbidden", [], 0)


async def test_access_that_was_revoked_meanwhile_counts(worker: Worker) -> None:
    """The notice of it found no connection yet."""
    worker.refusals["access"] = Refusal("revoked")
    with pytest.raises(Refusal) as refused:
        await visit(worker, ["o-1"]).admit(own(), Wanted())

    assert (refused.value.reason, worker.places) == ("revoked", 0)


async def test_sessions_that_cannot_be_listed_refuse_for_now(worker: Worker) -> None:
    """Nobody is let in to a hub that is silent for want of Redis."""
    worker.up = False
    with pytest.raises(Refusal) as refused:
        await visit(worker).admit(own(), Wanted())

    assert (refused.value.reason, worker.places) == ("unavailable", 0)


async def test_no_more_is_read_than_a_worker_may(worker: Worker) -> None:
    """It is refused before a place is taken."""
    worker.full = True
    with pytest.raises(Refusal) as refused:
        await visit(worker, ["o-1"]).admit(own(), Wanted())

    assert refused.value.reason == "too_many_connections"
    assert (worker.opened, worker.places) == ([], 0)


async def test_who_finds_no_room_any_more_is_let_go(worker: Worker, line: Line) -> None:
    """Others have come while it was let in."""
    coming = visit(worker, ["o-1"])
    await coming.admit(own(), Wanted())
    worker.full = True
    coming.welcome(line, Wanted())

    assert line.closed == [Disconnect.OVERLOADED]


async def test_nobody_has_no_sessions(worker: Worker) -> None:
    """Where nobody is asked who he is, one may still say something to a session."""
    await visit(worker).admit(everybody(""), Wanted())

    assert (worker.opened, worker.places) == ([], 1)
