"""Commands until they are answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from broker.client import Client, ClosedByServer, CommandRefused, CommandUnanswered
from broker.client.sender import UNANSWERED_BYTES_MAX, UNANSWERED_MAX, Sender
from tests.harness.load import until
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    Frame,
    Script,
    event,
    feeds,
    refuses,
    sends,
    subscribed,
    welcome,
)


def takes(frame: Frame) -> list[Frame]:
    """The broker's answer: stored, under an id that shows which one."""
    return [{"event": "ack", "data": {"ref": frame["id"], "id": f"{frame['cmd']}-0"}}]


def error(code: str, **data: Any) -> Any:
    """An answer that refuses."""
    said = {"code": code, "message": "because", **data}
    return lambda frame: [{"event": "error", "data": said | {"ref": frame["id"]}}]


def commands(script: Script) -> list[str]:
    return [frame["cmd"] for frame in script.said]


async def test_command_is_answered_with_its_stream_id(play: Play):
    """On a connection that reads no session."""
    script = await play(sends(welcome(), answer=takes))
    async with Client(script.url, user="ada") as client:
        stored = await client.send("s1", "go", {"text": "hä"}, id="command-1")
        other = await client.send("s2", "stop")

    assert (stored, other) == ("go-0", "stop-0")
    assert script.queries == [{"user": "ada"}]
    assert script.said[0] == {
        "cmd": "go",
        "id": "command-1",
        "session": "s1",
        "data": {"text": "hä"},
    }
    assert set(script.said[1]) == {"cmd", "id", "session"}
    assert len(script.said[1]["id"]) == 32


async def test_refusal_says_whether_to_try_again(play: Play):
    """And under which id."""
    script = await play(sends(welcome(), answer=error("rate_limited", retry=True)))
    async with Client(script.url) as client:
        with pytest.raises(CommandRefused) as refused:
            await client.send("s1", "go")

    assert (refused.value.code, refused.value.retry) == ("rate_limited", True)
    assert refused.value.message == "because"
    assert refused.value.id == script.said[0]["id"]


async def test_refusal_for_good_says_so(play: Play):
    """Where the broker says nothing of a retry, there is no use in one."""
    script = await play(sends(welcome(), answer=error("forbidden")))
    async with Client(script.url) as client:
        with pytest.raises(CommandRefused) as refused:
            await client.send("s1", "go")

    assert not refused.value.retry


async def test_unanswered_commands_are_said_again_in_their_order(play: Play):
    """The same words, and before anything new."""
    script = await play(
        sends(welcome(), after=lambda script: len(script.said) == 3, cut=True),
        sends(welcome(), answer=takes),
    )
    async with Client(script.url, user="ada") as client:
        sending = [
            asyncio.create_task(client.send("s1", name)) for name in ("a", "b", "c")
        ]
        await script.until(lambda: len(script.queries) == 2)
        late = await client.send("s1", "d")
        stored = await asyncio.gather(*sending)

    assert [*stored, late] == ["a-0", "b-0", "c-0", "d-0"]
    assert commands(script) == [*"abc", *"abcd"]
    assert script.said[:3] == script.said[3:6]


async def test_nobody_is_told_what_may_be_stored_twice(play: Play):
    """Of a client without a user the broker would not know that it is the same."""
    script = await play(
        sends(welcome(user=None), after=lambda script: bool(script.said), cut=True),
        sends(welcome(user=None), answer=takes),
    )
    async with Client(script.url) as client:
        with pytest.raises(CommandUnanswered, match="without a user") as unanswered:
            await client.send("s1", "a")
        stored = await client.send("s1", "b")

    assert unanswered.value.id == script.said[0]["id"]
    assert stored == "b-0"
    assert commands(script) == ["a", "b"]


async def test_time_limit_leaves_it_open(play: Play):
    """It may have been stored; the id allows to say it again."""
    script = await play(
        sends(
            welcome(),
            answer=lambda frame: takes(frame) if len(script.said) > 1 else [],
        )
    )
    async with Client(script.url) as client:
        with pytest.raises(CommandUnanswered, match="no answer") as unanswered:
            await client.send("s1", "a", timeout_s=0.1)
        stored = await client.send("s1", "a", id=unanswered.value.id)

    assert stored == "a-0"
    assert script.said[0] == script.said[1]


async def test_server_that_is_away_is_waited_for(play: Play):
    """As long as somebody wants something."""
    script = await play(refuses(503), sends(code=4000), sends(welcome(), answer=takes))
    async with Client(script.url) as client:
        stored = await client.send("s1", "a")

    assert stored == "a-0"


async def test_nobody_waits_and_nobody_connects(play: Play):
    """The next command opens a connection again."""
    script = await play(
        sends(
            welcome(), answer=takes, after=lambda script: bool(script.said), cut=True
        ),
        sends(welcome(), answer=takes),
    )
    async with Client(script.url) as client:
        first = await client.send("s1", "a")
        await script.until(lambda: not script.open)
        task = client._sender._task
        assert task is not None
        await asyncio.wait((task,))
        second = await client.send("s1", "b")

    assert (first, second) == ("a-0", "b-0")
    assert len(script.queries) == 2


async def test_end_for_good_ends_all_that_wait(play: Play):
    """Later commands try anew: something may have changed."""
    script = await play(
        sends(welcome(), after=lambda script: len(script.said) == 2, code=4511),
        sends(welcome(), answer=takes),
    )
    async with Client(script.url) as client:
        ends = await asyncio.gather(
            client.send("s1", "a"), client.send("s1", "b"), return_exceptions=True
        )
        later = await client.send("s1", "c")

    assert [type(end) for end in ends] == [ClosedByServer] * 2
    assert later == "c-0"


async def test_what_the_provider_raises_ends_all_that_wait():
    """They need a token."""

    async def broken(reason: str) -> str:
        raise LookupError(reason)

    async with Client("http://127.0.0.1:1", token=broken) as client:
        ends = await asyncio.gather(
            client.send("s1", "a"), client.send("s1", "b"), return_exceptions=True
        )

    assert [type(end) for end in ends] == [LookupError] * 2


async def test_client_that_ends_answers_nobody(play: Play):
    """Whoever waits in another task is told that he will not know."""
    script = await play(feeds(welcome()))
    async with Client(script.url) as client:
        waiting = asyncio.create_task(client.send("s1", "a"))
        await script.until(lambda: script.said)
    with pytest.raises(CommandUnanswered, match="closed"):
        await waiting


async def test_cancelled_command_is_not_said_again(play: Play):
    """Nobody wants to know."""
    script = await play(
        sends(welcome(), after=lambda script: len(script.said) == 2, cut=True),
        sends(welcome(), answer=takes),
    )
    async with Client(script.url) as client:
        gone = asyncio.create_task(client.send("s1", "gone"))
        await script.until(lambda: script.said)
        gone.cancel()
        await asyncio.wait((gone,))
        stored = await client.send("s1", "kept")

    assert stored == "kept-0"
    assert commands(script) == ["gone", "kept", "kept"]


async def test_loop_may_wait_for_a_command_with_a_full_inbox(play: Play):
    """The answer does not come behind the events."""
    events = [event(f"{number}-0", "x" * 10_000) for number in range(1, 2000)]
    script = await play(feeds(subscribed(), *events), sends(welcome(), answer=takes))
    async with Client(script.url) as client, client.events("s1") as stream:
        await anext(stream)
        await until(lambda: len(stream._flow.inbox) > 90, 8, "full inbox")
        stored = await client.send("s1", "go")

    assert stored == "go-0"


class Late:
    """Answers nothing until enough was said; then all of it.

    Attributes:
        sender: Who says it.
        most: How many were ever under way.
        most_bytes: How large they were together.
    """

    def __init__(self, enough: int) -> None:
        self.sender: Sender
        self.most = 0
        self.most_bytes = 0
        self._said: list[Frame] = []
        self._enough = enough

    def __call__(self, frame: Frame) -> list[Frame]:
        self.most = max(self.most, self.sender._under_way)
        self.most_bytes = max(self.most_bytes, self.sender._bytes_under_way)
        self._said.append(frame)
        if len(self._said) < self._enough:
            return []
        said, self._said = self._said, []
        return [answer for one in said for answer in takes(one)]


async def test_only_so_many_are_under_way(play: Play):
    """More than it can put aside the broker refuses, without a name."""
    late = Late(UNANSWERED_MAX)
    script = await play(sends(welcome(), answer=late))
    async with Client(script.url) as client:
        late.sender = client._sender
        await asyncio.gather(
            *(client.send("s1", "go") for _ in range(3 * UNANSWERED_MAX))
        )

    assert late.most == UNANSWERED_MAX
    assert len(script.said) == 3 * UNANSWERED_MAX


async def test_only_so_much_is_under_way(play: Play):
    """Large ones are fewer."""
    size = UNANSWERED_BYTES_MAX // 2 + 1
    late = Late(2)
    script = await play(sends(welcome(max_frame_bytes=10 * size), answer=late))
    async with Client(script.url) as client:
        late.sender = client._sender
        await asyncio.gather(
            *(client.send("s1", "go", {"text": "x" * size}) for _ in range(6))
        )

    assert late.most_bytes < 2.1 * size
    assert len(script.said) == 6


async def test_command_that_is_too_large_closes_nothing(play: Play):
    """The broker would close the connection, with all that is under way."""
    script = await play(sends(welcome(max_frame_bytes=1000), answer=takes))
    async with Client(script.url) as client:
        with pytest.raises(CommandRefused, match="1000 bytes") as refused:
            await client.send("s1", "a", {"text": "x" * 1000})
        stored = await client.send("s1", "b")

    assert refused.value.code == "too_large"
    assert stored == "b-0"
    assert commands(script) == ["b"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("../x", "go"), {}),
        (("s1", ""), {}),
        (("s1", "x" * 129), {}),
        (("s1", "subscribe"), {}),
        (("s1", "auth"), {}),
        (("s1", "go"), {"id": "short"}),
        (("s1", "go"), {"id": "x" * 129}),
        (("s1", "go", {"a": object()}), {}),
    ],
    ids=["session", "empty", "long", "broker", "auth", "short id", "long id", "data"],
)
async def test_what_cannot_be_said_is_refused_at_once(
    arguments: tuple[Any, ...], options: dict[str, Any]
):
    """Before anything is connected."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=r"."):
            await client.send(*arguments, **options)


async def test_id_that_is_under_way_is_refused(play: Play):
    """Two that wait for one answer would be one command."""
    script = await play(feeds(welcome()))
    async with Client(script.url) as client:
        waiting = asyncio.create_task(client.send("s1", "a", id="command-1"))
        await script.until(lambda: script.said)
        with pytest.raises(ValueError, match="under way"):
            await client.send("s1", "a", id="command-1")
        waiting.cancel()


async def test_arguments_and_tokens_stay_out_of_the_log(
    play: Play, caplog: pytest.LogCaptureFixture
):
    """Whatever happens to them."""
    script = await play(
        sends(welcome(), after=lambda script: bool(script.said), cut=True),
        refuses(503),
        refuses(401),
    )
    with caplog.at_level(logging.DEBUG):
        async with Client(script.url, token="secret-t1") as client:
            with pytest.raises(ClosedByServer) as ended:
                await client.send("s1", "a", {"text": "secret-data"})

    assert "again in" in caplog.text
    assert "secret" not in caplog.text + str(ended.value) + repr(client)
