"""What becomes of a command before and after Redis has it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog
from hiredis import ReplyError
from structlog.testing import capture_logs

from broker.config import load_settings
from broker.control import upstream as module
from broker.control.upstream import Answer, Upstream
from broker.errors import StoreUnavailable
from broker.store.standing import StandingConnection
from tests.fakes import FakeClock

SETTINGS = {
    "BROKER_COMMAND_RATE_PER_S": "2",
    "BROKER_COMMAND_RATE_PER_USER_PER_S": "3",
    "BROKER_COMMAND_BACKLOG": "5",
    "BROKER_MAX_FRAME_BYTES": "200",
}


class Sender:
    """A connection that says something."""

    def __init__(self, user: str = "", connection_id: str = "c1") -> None:
        self.user = user
        self.connection_id = connection_id
        self.command_allowance: tuple[float, float] | None = None


class Store:
    """A connection to Redis that answers when it is told to."""

    def __init__(self) -> None:
        self.up = True
        self.dropped = 0
        self.calls: list[asyncio.Future[list[Any]]] = []

    def use(self) -> Store:
        if not self.up:
            raise StoreUnavailable("no connection")
        return self

    def drop(self) -> None:
        self.dropped += 1

    def send(self, *commands: object) -> asyncio.Future[list[Any]]:
        del commands
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]

    async def answer(self, reply: object = b"1-0", index: int = -1) -> None:
        """Let one command be answered, and whoever waits take note."""
        self.calls[index].set_result([reply])
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def store(clock: FakeClock) -> Store:
    del clock  # it must be the one that is looked at
    return Store()


@pytest.fixture
def upstream(store: Store) -> Upstream:
    settings = load_settings(SETTINGS, env_file=None)
    return Upstream(cast("StandingConnection", store), settings, trims=False)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Logs that can be captured."""
    configured = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**configured)


def say(
    upstream: Upstream, sender: Sender, data: bytes = b"{}"
) -> asyncio.Future[Answer]:
    return upstream.send(sender, "s1", "user_input", data, "c1")


def said_at_once(upstream: Upstream, sender: Sender, count: int) -> list[str]:
    """The code of each of several answers; empty for those not refused at once."""
    answers = [say(upstream, sender) for _ in range(count)]
    return [answer.result().code if answer.done() else "" for answer in answers]


async def test_stored_command_is_answered_with_its_stream_id(
    upstream: Upstream, store: Store
) -> None:
    """The answer comes when Redis has it, and not before."""
    answer = say(upstream, Sender())
    await asyncio.sleep(0)
    assert not answer.done()
    await store.answer(b"7-3")

    assert answer.result() == Answer("7-3")


async def test_rate_of_a_connection_is_bounded(
    upstream: Upstream, clock: FakeClock
) -> None:
    """Two seconds' worth at once, then the rate; others are not touched."""
    sender = Sender()
    assert said_at_once(upstream, sender, 5) == ["", "", "", "", "rate_limited"]
    assert said_at_once(upstream, Sender(connection_id="c2"), 1) == [""]
    clock.advance(0.5)
    assert said_at_once(upstream, sender, 2) == ["", "rate_limited"]


async def test_rate_of_a_user_is_bounded_over_all_connections(
    upstream: Upstream, clock: FakeClock
) -> None:
    """More connections are no more commands; another user is not touched."""
    first, second = Sender("ann", "c1"), Sender("ann", "c2")
    assert said_at_once(upstream, first, 4) == [""] * 4
    assert said_at_once(upstream, second, 3) == ["", "", "rate_limited"]
    assert said_at_once(upstream, Sender("bob", "c3"), 1) == [""]
    clock.advance(0.4)
    assert said_at_once(upstream, Sender("ann", "c4"), 2) == ["", "rate_limited"]


async def test_those_without_a_user_do_not_share_a_rate(upstream: Upstream) -> None:
    """Nobody can silence everybody who is not logged in."""
    assert said_at_once(upstream, Sender(), 4) == [""] * 4
    assert said_at_once(upstream, Sender(connection_id="c2"), 4) == [""] * 4


async def test_users_are_remembered_in_bounded_memory(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was silent for longest is forgotten, not who talks."""
    monkeypatch.setattr(module, "USERS_MAX", 2)
    assert said_at_once(upstream, Sender("ann"), 4) == [""] * 4
    assert said_at_once(upstream, Sender("bob"), 1) == [""]
    assert said_at_once(upstream, Sender("ann"), 1) == [""]
    assert said_at_once(upstream, Sender("eve"), 1) == [""]
    assert said_at_once(upstream, Sender("ann"), 2) == ["", "rate_limited"]

    assert len(upstream._users) == 2


async def test_backlog_above_its_limit_is_overload(
    upstream: Upstream, store: Store
) -> None:
    """Stored commands count at once, not only at the next look."""
    upstream.backlog = 5
    assert said_at_once(upstream, Sender(), 1) == [""]
    await store.answer()
    assert said_at_once(upstream, Sender(), 1) == ["overloaded"]


async def test_commands_in_flight_are_bounded(
    upstream: Upstream, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that stalls does not fill the worker; an answer makes room."""
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 2)
    assert said_at_once(upstream, Sender(), 3) == ["", "", "overloaded"]
    await store.answer()
    assert said_at_once(upstream, Sender(), 2) == ["", "overloaded"]


async def test_bytes_in_flight_are_bounded(
    upstream: Upstream, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for few commands that are large."""
    monkeypatch.setattr(module, "IN_FLIGHT_BYTES_MAX", 150)
    sender = Sender()
    answers = [say(upstream, sender, bytes(100)) for _ in range(3)]
    assert [answer.done() for answer in answers] == [False, False, True]
    assert answers[2].result().code == "overloaded"
    await store.answer()
    assert not say(upstream, sender, bytes(100)).done()


async def test_command_above_the_size_is_refused_for_good(upstream: Upstream) -> None:
    """It is not sent, and saying it again does not help."""
    assert not say(upstream, Sender(), bytes(200)).done()
    answer = say(upstream, Sender(), bytes(201)).result()
    assert (answer.code, answer.retry) == ("too_large", False)


async def test_without_a_connection_commands_are_unavailable_at_once(
    upstream: Upstream, store: Store
) -> None:
    """Nobody waits for a Redis that is known to be away."""
    store.up = False
    answer = say(upstream, Sender()).result()
    assert (answer.code, answer.retry) == ("unavailable", True)


async def test_lost_connection_is_unavailable_and_sends_nothing_again(
    upstream: Upstream, store: Store
) -> None:
    """Nobody knows whether it was stored: only its client may repeat it."""
    answer = say(upstream, Sender())
    store.calls[0].set_exception(StoreUnavailable("lost"))
    assert (await answer).code == "unavailable"
    assert len(store.calls) == 1


async def test_id_of_another_command_is_refused(
    upstream: Upstream, store: Store
) -> None:
    """Saying it again is no use; another id is."""
    answer = say(upstream, Sender())
    await store.answer(None)
    assert (answer.result().code, answer.result().retry) == ("id_reused", False)


async def test_forgotten_scripts_are_loaded_by_a_new_connection(
    upstream: Upstream, store: Store
) -> None:
    """SCRIPT FLUSH is an outage of a moment, not for ever."""
    answer = say(upstream, Sender())
    await store.answer(ReplyError("NOSCRIPT No matching script."))
    assert answer.result().code == "unavailable"
    assert store.dropped == 1


async def test_refusal_of_redis_is_said_once_until_it_is_over(
    upstream: Upstream, store: Store, quiet: None
) -> None:
    """A full Redis is an error in the log, not one for each command."""
    del quiet
    with capture_logs() as logs:
        full = ReplyError("OOM full")
        answers = [say(upstream, Sender()) for _ in range(4)]
        for index, reply in enumerate([full, full, b"1-0", full]):
            await store.answer(reply, index)

    codes = [answer.result().code for answer in answers]
    assert codes == ["unavailable", "unavailable", "", "unavailable"]
    assert [entry["event"] for entry in logs] == ["commands_not_stored"] * 2
    assert store.dropped == 0


async def test_answers_come_in_the_order_of_the_commands(
    upstream: Upstream, store: Store
) -> None:
    """Also if the connection is lost in between."""
    answers = [say(upstream, Sender()) for _ in range(4)]
    told: list[asyncio.Future[Answer]] = []
    for answer in answers:
        answer.add_done_callback(told.append)
    store.calls[0].set_result([b"1-0"])
    store.calls[1].set_result([b"1-1"])
    store.calls[2].set_exception(StoreUnavailable("lost"))
    store.calls[3].set_exception(StoreUnavailable("lost"))
    await asyncio.wait(answers)

    assert told == answers


async def test_whoever_stops_waiting_changes_nothing(
    upstream: Upstream, store: Store
) -> None:
    """The command goes on, and its place is free when it is answered."""
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    say(upstream, Sender()).cancel()
    assert upstream.in_flight == 1
    await store.answer()
    assert upstream.in_flight == 0
    assert not failures


async def test_connection_is_not_kept_until_the_answer(
    upstream: Upstream, store: Store
) -> None:
    """A connection that is gone costs no memory while Redis stalls."""
    sender = Sender("ann")
    answer = say(upstream, sender)
    gone = weakref.ref(sender)
    del sender
    gc.collect()

    assert gone() is None
    await store.answer()
    assert answer.result().stream_id


async def test_flush_waits_for_what_is_under_way(
    upstream: Upstream, store: Store
) -> None:
    """A worker that leaves first hears of what its clients said."""
    await upstream.flush()
    assert said_at_once(upstream, Sender(), 2) == ["", ""]
    flushing = asyncio.create_task(upstream.flush())
    await store.answer(index=0)
    assert not flushing.done()
    await store.answer(index=1)
    await flushing
