"""How far a consumer is done, as the broker learns it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, cast

import orjson
import pytest

from broker.client import Client, Event, Item, Stream, flow
from broker.client import acks as acking
from broker.client.acks import Acks
from broker.client.wire import Details
from tests.harness.load import until
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    Answer,
    Frame,
    Script,
    about,
    event,
    feeds,
    sends,
    subscribed,
    welcome,
)

CAUGHT_UP = about("caught_up", position="9-0@9", replayed=0)
RESET = about("reset", tip="2-0@2", **{"from": "0-0@0"})


def stored(frame: Frame) -> list[Frame]:
    """The broker's answer to an ack."""
    data = {"position": frame["data"]["position"], "ref": frame["id"]}
    return [about("ack", **data)]


def refuse(code: str, **data: Any) -> Answer:
    """The broker's answer to an ack that it does not store."""
    said = {"code": code, "message": "because", **data}
    return lambda frame: [about("error", **said, ref=frame["id"])]


def positions(script: Script) -> list[str]:
    """What was said to be done."""
    return [frame["data"]["position"] for frame in script.said]


async def next_event(stream: Stream) -> Event:
    item: Item = await anext(stream)
    assert isinstance(item, Event)
    return item


async def test_what_is_acknowledged_is_said(play: Play):
    """On the connection that brought it."""
    script = await play(sends(subscribed(), event("1-0@1"), answer=stored))
    async with Client(script.url) as client:
        stream = client.events("s1", consumer="c")
        await client.ack(await next_event(stream))
        await script.until(lambda: script.said)

    assert script.said == [
        {"cmd": "ack", "id": "ack 1-0@1", "data": {"position": "1-0@1"}}
    ]


async def test_nothing_is_said_that_was_not_acknowledged(play: Play):
    """To have taken an event is not to be done with it."""
    script = await play(feeds(subscribed(), event("1-0"), event("2-0"), answer=stored))
    async with Client(script.url) as client, client.events("s1", consumer="c") as it:
        await next_event(it)
        await next_event(it)

    assert script.said == []


async def test_auto_acknowledges_what_the_loop_has_finished(play: Play):
    """The event in hand is not: it comes again to the next one."""
    script = await play(feeds(subscribed(), event("1-0"), event("2-0"), answer=stored))
    async with (
        Client(script.url) as client,
        client.events("s1", consumer="c", ack="auto") as stream,
    ):
        await next_event(stream)
        await next_event(stream)

    assert positions(script)[-1] == "1-0"


async def test_last_word_is_said_when_the_stream_is_left(play: Play):
    """However soon after the ack that is."""
    script = await play(feeds(subscribed(), event("1-0"), event("2-0"), answer=stored))
    async with Client(script.url) as client, client.events("s1", consumer="c") as it:
        await next_event(it)
        await client.ack(await next_event(it))
    await script.until(lambda: not script.open)

    assert positions(script)[-1] == "2-0"


async def test_many_acknowledgements_are_few_frames(play: Play):
    """The broker writes them together anyway."""
    count = 300
    events = [event(f"{number}-0") for number in range(1, count + 1)]
    script = await play(feeds(subscribed(), *events, answer=stored))
    async with Client(script.url) as client, client.events("s1", consumer="c") as it:
        for _ in range(count):
            await client.ack(await next_event(it))
            await asyncio.sleep(0)  # others get their turn, and could say each
    await script.until(lambda: not script.open)

    assert positions(script)[-1] == f"{count}-0"
    assert len(script.said) < count / 10


async def test_lower_position_changes_nothing(play: Play):
    """Work may be finished in another order."""
    script = await play(feeds(subscribed(), event("9-0"), event("10-0"), answer=stored))
    async with Client(script.url) as client, client.events("s1", consumer="c") as it:
        first, second = await next_event(it), await next_event(it)
        await client.ack(second)
        await client.ack(first)
    await script.until(lambda: not script.open)

    assert set(positions(script)) == {"10-0"}


async def test_what_was_not_answered_is_said_again_by_the_next_connection(play: Play):
    """When the broker knows what it has sent there."""
    script = await play(
        sends(
            *(subscribed(), event("1-0")),
            after=lambda script: bool(script.said),
            cut=True,
        ),
        sends(subscribed(), CAUGHT_UP, answer=stored),
    )
    async with Client(script.url) as client:
        stream = client.events("s1", consumer="c")
        await client.ack(await next_event(stream))
        await script.until(lambda: len(script.said) == 2)

    assert positions(script) == ["1-0", "1-0"]


async def test_what_is_stored_is_not_said_again(play: Play):
    """Not even when the stream is left."""
    script = await play(sends(subscribed(), event("1-0"), answer=stored))
    async with (
        Client(script.url) as client,
        client.events("s1", consumer="c", everything=True) as stream,
    ):
        await anext(stream)
        await client.ack(await next_event(stream))
        answer = await anext(stream)

    assert answer.event == "ack"
    assert positions(script) == ["1-0"]


async def test_what_may_not_be_stored_is_said_again(play: Play):
    """Redis was away for a moment."""
    refused = refuse("unavailable", retry=True)
    script = await play(
        sends(
            *(subscribed(), event("1-0")),
            answer=lambda frame: (refused if len(script.said) < 3 else stored)(frame),
        )
    )
    async with Client(script.url) as client:
        stream = client.events("s1", consumer="c")
        await client.ack(await next_event(stream))
        await script.until(lambda: len(script.said) == 3)

    assert positions(script) == ["1-0"] * 3


async def test_position_of_a_history_that_ended_is_not_said(play: Play):
    """It would mean something else in the new one."""
    script = await play(
        feeds(
            *(subscribed(), event("5-0"), event("6-0"), RESET, event("1-1")),
            answer=stored,
        )
    )
    async with Client(script.url) as client, client.events("s1", consumer="c") as it:
        old, older = await next_event(it), await next_event(it)
        await until(lambda: len(it._flow.inbox) == 2, 8, "reset")
        await client.ack(old)
        await client.ack(older)
        await anext(it)
        await client.ack(await next_event(it))
    await script.until(lambda: not script.open)

    assert set(positions(script)) == {"1-1"}


class Wire:
    """The connection of acks, without a socket.

    Attributes:
        said: What was said to be done.
    """

    def __init__(self, acks: Acks) -> None:
        self.said: list[str] = []
        self._acks = acks
        self._work: asyncio.Task[None]
        acks.begin(cast("Any", self))

    def start(self, work: Coroutine[None, None, None]) -> None:
        self._work = asyncio.create_task(work)

    async def send(self, text: str) -> None:
        self.said.append(orjson.loads(text)["data"]["position"])

    async def settle(self) -> None:
        """Let it say what it has to say."""
        for _ in range(5):
            await asyncio.sleep(0)

    def answer(self, event: str, ref: str, **data: Any) -> None:
        self._acks.handle_answer(event, Details(ref=ref, **data))

    def close(self) -> None:
        self._work.cancel()


@pytest.fixture
async def acks(monkeypatch: pytest.MonkeyPatch) -> Acks:
    """Acks that are said at once."""
    monkeypatch.setattr(acking, "SAY_EVERY_S", 0)
    return Acks()


@pytest.fixture
async def wire(acks: Acks) -> AsyncIterator[Wire]:
    """What they are said on."""
    wire = Wire(acks)
    yield wire
    wire.close()


async def test_what_was_done_in_a_history_that_ended_is_forgotten(acks: Acks):
    """Also if it had not been said yet."""
    acks.note("5-0")
    acks.read_reset()
    wire = Wire(acks)
    acks.remind()
    await wire.settle()
    await acks.finish()
    wire.close()

    assert wire.said == []


async def test_answer_is_to_what_was_said(acks: Acks, wire: Wire):
    """More may have been done meanwhile."""
    acks.note("5-0")
    await wire.settle()
    acks.note("6-0")
    await wire.settle()
    wire.answer("ack", "ack 5-0")
    acks.remind()
    await wire.settle()
    wire.answer("ack", "ack 6-0")
    acks.remind()
    await wire.settle()

    assert wire.said == ["5-0", "6-0", "6-0"]


async def test_what_was_refused_is_said_again_after_the_replay(acks: Acks, wire: Wire):
    """By then the broker knows what this connection was sent; before, it may not."""
    acks.note("5-0")
    await wire.settle()
    wire.answer("error", "ack 5-0", code="not_delivered")
    await wire.settle()
    before = list(wire.said)
    acks.remind()
    await wire.settle()

    assert before == ["5-0"]
    assert wire.said == ["5-0", "5-0"]


async def test_acknowledging_needs_a_consumer(play: Play):
    """Without a name there is nothing to keep it under."""
    script = await play(feeds(subscribed(), event("1-0")))
    async with Client(script.url) as client:
        stream = client.events("s1")
        first = await next_event(stream)
        with pytest.raises(RuntimeError, match="consumer"):
            await client.ack(first)


async def test_session_has_one_consumer_at_a_time(play: Play):
    """Else nobody knows whose an ack is; after the first has left there is another."""
    script = await play(feeds(event("1-0")), feeds(event("1-0")))
    options: dict[str, Any] = {"consumer": "c"}
    async with Client(script.url) as client:
        async for _ in client.events("s1", **options):
            second = client.events("s1", **options)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="already"):
                    await anext(second)
            break
        again = await anext(client.events("s1", **options))

    assert again.id == "1-0"


async def test_ack_after_the_end_is_no_error(play: Play):
    """The loop learns of the end when it asks for the next event."""
    script = await play(sends(subscribed(), event("1-0"), event("2-0"), code=4509))
    async with Client(script.url) as client:
        stream = client.events("s1", consumer="c")
        first = await next_event(stream)
        await script.until(lambda: not script.open)
        await client.ack(first)
        second = await next_event(stream)
        await client.ack(second)

    assert second.id == "2-0"


@pytest.mark.parametrize("code", ["not_delivered", "reset"])
async def test_refused_acknowledgement_holds_nobody_up(
    play: Play, code: str, monkeypatch: pytest.MonkeyPatch
):
    """It is lost, and events come again; the stream is left all the same."""
    monkeypatch.setattr(flow, "CLOSE_TIMEOUT_S", 1000)
    script = await play(
        feeds(
            welcome(),
            subscribed(),
            event("1-0"),
            event("2-0"),
            answer=refuse(code),
        )
    )
    async with (
        asyncio.timeout(8),
        Client(script.url) as client,
        client.events("s1", consumer="c") as it,
    ):
        await client.ack(await next_event(it))
        await script.until(lambda: script.said)
        await client.ack(await next_event(it))

    assert positions(script)[-1] == "2-0"


async def test_connection_that_ends_while_it_is_left_holds_nobody_up(
    play: Play, monkeypatch: pytest.MonkeyPatch
):
    """It answers nothing more."""
    monkeypatch.setattr(flow, "CLOSE_TIMEOUT_S", 1000)
    script = await play(
        sends(
            welcome(),
            subscribed(),
            event("1-0"),
            after=lambda s: bool(s.said),
            cut=True,
        )
    )
    async with (
        asyncio.timeout(8),
        Client(script.url) as client,
        client.events("s1", consumer="c") as it,
    ):
        await client.ack(await next_event(it))
