"""When another connection is opened, and with which token."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.client import follow as following
from broker.client.follow import Backoff, Follower, broker_url, new_http
from broker.client.link import Ending, Link
from broker.client.tokens import Tokens
from broker.client.wire import Frame
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    THE_END,
    Act,
    Script,
    about,
    refuses,
    sends,
    welcome,
)
from tests.unit.client.test_tokens import Provider


class Owner:
    """Takes everything; wants as many connections as the test says.

    Attributes:
        endings: How they ended.
    """

    def __init__(self, wanted: int = 100) -> None:
        self.endings: list[Ending] = []
        self._wanted = wanted

    def query(self) -> dict[str, str]:
        return {}

    def handle_frame(self, link: Link, frame: Frame, text: str) -> None:
        pass

    def handle_end(self, ending: Ending) -> bool:
        self.endings.append(ending)
        return len(self.endings) < self._wanted

    def handle_pause(self, ending: Ending, delay_s: float) -> None:
        pass


async def follow(script: Script, tokens: Tokens, owner: Owner | None = None) -> Ending:
    follower = Follower(broker_url(script.url) / "v1" / "ws", tokens, owner or Owner())
    async with asyncio.timeout(8), new_http() as http:
        return await follower.run(http)


def bearers(*tokens: str) -> list[str]:
    return [f"Bearer {token}" for token in tokens]


async def test_token_is_in_the_header_and_nowhere_else(play: Play):
    """URLs and subprotocols end up in logs."""
    script = await play(THE_END)
    await follow(script, Tokens("t1"))

    assert script.tokens == bearers("t1")
    assert script.queries == [{}]
    assert script.offered == ["broker.v1"]


async def test_without_a_token_there_is_no_header(play: Play):
    """An empty one would be a wrong one."""
    script = await play(THE_END)
    await follow(script, Tokens(""))

    assert script.tokens == [None]


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (sends(code=4510), "expired"),
        (sends(code=4501), "refused"),
        (refuses(401), "refused"),
    ],
    ids=["4510", "4501", "401"],
)
async def test_refused_token_is_followed_by_one_more(
    play: Play, refusal: Act, reason: str
):
    """The request was right, only its token was not."""
    provider = Provider("t1", "t2")
    script = await play(refusal, THE_END)
    ending = await follow(script, Tokens(provider))

    assert ending.code == 4504
    assert provider.reasons == ["connect", reason]
    assert script.tokens == bearers("t1", "t2")


async def test_second_token_that_is_refused_ends_it(play: Play):
    """A provider that makes bad ones is not asked for ever."""
    provider = Provider("t1", "t2")
    script = await play(refuses(401), sends(code=4510))
    ending = await follow(script, Tokens(provider))

    assert (ending.code, ending.retry) == (4510, False)
    assert provider.reasons == ["connect", "refused"]


async def test_token_that_was_taken_may_be_refused_later(play: Play):
    """Each of a long row of short tokens is replaced."""
    provider = Provider("t1", "t2", "t3")
    expires = sends(welcome(), code=4510)
    script = await play(expires, expires, THE_END)
    ending = await follow(script, Tokens(provider))

    assert ending.code == 4504
    assert provider.reasons == ["connect", "expired", "expired"]


async def test_token_that_cannot_be_replaced_ends_it(play: Play):
    """The same one would be refused again."""
    script = await play(refuses(401))
    ending = await follow(script, Tokens("t1"))

    assert (ending.code, ending.retry) == (401, False)


@pytest.mark.parametrize("code", [4503, 4511])
async def test_no_token_helps_against_other_refusals(play: Play, code: int):
    """Who may not, or not any more, need not ask for another one."""
    provider = Provider("t1")
    script = await play(sends(code=code))
    ending = await follow(script, Tokens(provider))

    assert ending.code == code
    assert provider.reasons == ["connect"]


async def test_what_the_provider_raises_is_raised(play: Play):
    """It is the program's own, which knows what it means."""

    async def broken(reason: str) -> str:
        raise LookupError(reason)

    with pytest.raises(LookupError, match="connect"):
        await follow(await play(), Tokens(broken))


async def test_expiring_token_is_replaced_on_the_open_connection(play: Play):
    """The connection stays; the next one begins with the new token."""
    provider = Provider("t1", "t2")
    expiring = about("token_expiring", expires_in_s=60)
    refreshed = {"event": "refreshed", "data": {"ref": "refresh"}}
    script = await play(
        sends(
            welcome(),
            expiring,
            answer=lambda frame: [refreshed],
            after=lambda script: bool(script.said),
            code=4000,
        ),
        THE_END,
    )
    await follow(script, Tokens(provider))

    assert provider.reasons == ["connect", "expiring"]
    assert script.said == [{"cmd": "refresh", "id": "refresh", "data": {"token": "t2"}}]
    assert script.tokens == bearers("t1", "t2")


async def test_token_that_cannot_be_replaced_is_not_said_again(play: Play):
    """The broker has it already."""
    expiring = about("token_expiring", expires_in_s=60)
    until_it_is_silent = sends(welcome(heartbeat_s=0.05), expiring)
    script = await play(until_it_is_silent, THE_END)
    await follow(script, Tokens("t1"))

    assert script.said == []


async def test_refresh_that_fails_is_told_without_the_token(
    play: Play, caplog: pytest.LogCaptureFixture
):
    """Neither what the provider says nor the token belong into a log."""
    refusal = {"event": "error", "data": {"code": "forbidden", "ref": "refresh"}}
    secret = Provider("t1", "secret-t2")

    async def provide(reason: str) -> str:
        if reason == "expired":
            raise LookupError("secret-t3")
        return await secret("expiring")

    expiring = about("token_expiring", expires_in_s=60)
    script = await play(
        sends(
            welcome(),
            expiring,
            answer=lambda frame: [refusal],
            after=lambda script: bool(script.said),
            code=4510,
        )
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(LookupError):
        await follow(script, Tokens(provide))

    assert "forbidden" in caplog.text
    assert "secret" not in caplog.text


async def test_provider_that_has_no_token_yet_costs_no_connection(
    play: Play, caplog: pytest.LogCaptureFixture
):
    """The former token is still good."""
    gone = asyncio.Event()

    async def provide(reason: str) -> str:
        if reason == "connect":
            return "t1"
        gone.set()
        raise LookupError("secret")

    expiring = about("token_expiring", expires_in_s=60)
    script = await play(
        sends(welcome(), expiring, after=lambda script: gone.is_set(), code=4504)
    )
    follows = asyncio.create_task(follow(script, Tokens(provide)))
    await gone.wait()
    script.note()
    ending = await follows

    assert ending.code == 4504
    assert "LookupError" in caplog.text
    assert "secret" not in caplog.text


async def test_owner_that_wants_no_more_gets_no_more(play: Play):
    """Whatever the server would allow."""
    script = await play(sends(code=4000), sends(code=4000))
    owner = Owner(wanted=2)
    ending = await follow(script, Tokens(""), owner)

    assert (ending.code, ending.retry) == (4000, True)
    assert [one.code for one in owner.endings] == [4000, 4000]


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1009])
async def test_what_the_client_did_wrong_is_not_repeated(play: Play, code: int):
    """PROTOCOL.md, "Close codes"."""
    ending = await follow(await play(sends(code=code)), Tokens(""))

    assert (ending.code, ending.retry) == (code, False)


async def test_server_that_speaks_something_else_ends_it(play: Play):
    """It would not learn it until the next time."""
    strange = sends({"neither": "event", "nor": "id"})
    ending = await follow(await play(strange), Tokens(""))

    assert not ending.retry
    assert "no frame of ours" in ending.reason


async def test_impossible_position_is_no_frame_of_the_broker(play: Play):
    """It could not be resumed from."""

    class Strict(Owner):
        def handle_frame(self, link: Link, frame: Frame, text: str) -> None:
            raise ValueError("a position is <ms>-<n>")

    ending = await follow(await play(sends(welcome())), Tokens(""), Strict())

    assert not ending.retry
    assert "no frame of ours" in ending.reason


ASKED = Ending("", retry=True, delay_s=3.0)
NOT_ASKED = Ending("", retry=True)


def test_waits_double_until_a_connection_was_healthy(monkeypatch: pytest.MonkeyPatch):
    """A server that is back is not punished for what has been."""
    monkeypatch.setattr(following, "backoff_s", float)
    backoff = Backoff()
    waits = [backoff.next_s(NOT_ASKED, 0.1) for _ in range(3)]
    waits.append(backoff.next_s(ASKED, 0.1))
    waits.append(backoff.next_s(NOT_ASKED, 0.1))
    waits.append(backoff.next_s(NOT_ASKED, 60))
    waits.append(backoff.next_s(NOT_ASKED, 0.1))

    assert waits == [0, 1, 2, 3.0, 4, 0, 1]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://h", "", "http://", "http://ada:secret@h"]
)
def test_what_is_no_url_is_refused(url: str):
    """Also one with a password: tokens have a place of their own."""
    with pytest.raises(ValueError, match="must look like") as refused:
        broker_url(url)

    assert "secret" not in str(refused.value)
