"""Key sets while their issuer is away, or answers what is none."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable

import pytest
import structlog

from broker.control import jwks as module
from broker.control.identity import AuthUnavailable
from broker.control.jwks import KEY_SET_BYTES_MAX, RETRY_PAUSE_S, KeySet
from broker.control.tokens import Tokens
from tests.fakes import FakeClock
from tests.unit.control.conftest import CACHE_S
from tests.unit.control.issuer import (
    ONE,
    TWO,
    KeyServer,
    ec_key,
    key_set,
    rsa_key,
    token,
)
from tests.unit.control.judges import assert_unavailable

Outcome = Callable[[Tokens, str], Awaitable[None]]


async def assert_available(tokens: Tokens, text: str) -> None:
    assert (await tokens.identify(text)).user == "ann"


@pytest.mark.parametrize("kid", ["one", "none"])
async def test_without_any_set_no_token_can_be_judged(
    tokens: Tokens, key_server: KeyServer, key_clock: FakeClock, kid: str
) -> None:
    """It may be good, so it is not refused; and the issuer is not hurried."""
    key_server.status = 500
    for _ in range(20):
        await assert_unavailable(tokens, token(rsa_key(), kid=kid))
    assert key_server.requests == 1

    key_server.show(ONE)
    key_server.status = 200
    key_clock.advance(RETRY_PAUSE_S)
    assert (await tokens.identify(token(rsa_key(), kid="one"))).user == "ann"


async def test_the_old_set_is_used_while_the_issuer_is_away(
    tokens: Tokens, key_server: KeyServer, key_clock: FakeClock
) -> None:
    """However long; tokens of other keys cannot be judged meanwhile."""
    key_server.show(ONE)
    text = token(rsa_key(), kid="one")
    await tokens.identify(text)
    key_server.status = 503

    for _ in range(5):
        key_clock.advance(10 * CACHE_S)
        assert (await tokens.identify(text)).user == "ann"
        await assert_unavailable(tokens, token(ec_key(), kid="two"))


async def test_nobody_waits_twice_for_an_issuer_that_hangs(
    tokens: Tokens, key_server: KeyServer, keys: KeySet, key_clock: FakeClock
) -> None:
    """Once it is known to be away, it is asked behind the backs of those we know."""
    key_server.show(ONE)
    text = token(rsa_key(), kid="one")
    await tokens.identify(text)
    key_server.status = 503
    key_clock.advance(CACHE_S)
    await tokens.identify(text)
    key_server.asked.clear()
    key_server.open.clear()

    key_clock.advance(RETRY_PAUSE_S)
    assert (await tokens.identify(text)).user == "ann"
    await key_server.asked.wait()
    key_server.show(ONE, TWO)
    key_server.status = 200
    key_server.open.set()
    await keys._join()

    assert (await tokens.identify(token(ec_key(), kid="two"))).user == "ann"
    assert key_server.requests == 3


async def test_nobody_there_is_an_issuer_that_is_away(
    key_clock: FakeClock, key_server: KeyServer
) -> None:
    """A refused connection can be told from a bad token."""
    del key_clock
    url = key_server.url
    await key_server.stop()
    keys = KeySet(url, CACHE_S)
    with pytest.raises(AuthUnavailable):
        await keys.find("one")
    await keys.close()


async def test_an_issuer_that_hangs_up_is_away(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """It may be restarting."""
    key_server.hangs_up = True

    with structlog.testing.capture_logs() as lines:
        await assert_unavailable(tokens, token(rsa_key(), kid="one"))

    assert [line["event"] for line in lines] == ["jwks_not_fetched"]


async def test_an_issuer_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tokens: Tokens, key_server: KeyServer
) -> None:
    """A connection that brings nothing ends."""
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", 0.05)
    key_server.open.clear()

    with structlog.testing.capture_logs() as lines:
        await assert_unavailable(tokens, token(rsa_key(), kid="one"))

    assert [line["event"] for line in lines] == ["jwks_not_fetched"]


@pytest.mark.parametrize("status", [204, 301, 302, 401, 404, 500])
async def test_only_a_plain_answer_is_read(
    tokens: Tokens, key_server: KeyServer, status: int
) -> None:
    """A redirect could lead to where nobody checks who answers."""
    key_server.show(ONE)
    key_server.status = status
    key_server.headers = {"Location": key_server.url}

    await assert_unavailable(tokens, token(rsa_key(), kid="one"))

    assert key_server.requests == 1


@pytest.mark.parametrize(
    ("more", "assert_outcome"), [(0, assert_available), (1, assert_unavailable)]
)
async def test_the_size_of_an_answer_is_bounded(
    tokens: Tokens, key_server: KeyServer, more: int, assert_outcome: Outcome
) -> None:
    """The largest is read, one byte more is not."""
    body = key_set(ONE)
    key_server.body = body + b" " * (KEY_SET_BYTES_MAX - len(body) + more)

    await assert_outcome(tokens, token(rsa_key(), kid="one"))


async def test_a_set_that_became_unusable_changes_nothing(
    tokens: Tokens, key_server: KeyServer, key_clock: FakeClock
) -> None:
    """An error page or an empty list does not lock everybody out."""
    key_server.show(ONE)
    await tokens.identify(token(rsa_key(), kid="one"))
    for body in (b"<html>", key_set(), key_set(ONE | {"use": "enc"})):
        key_server.body = body
        key_clock.advance(CACHE_S)
        assert (await tokens.identify(token(rsa_key(), kid="one"))).user == "ann"


@pytest.mark.parametrize(
    ("pattern", "event"),
    [
        ("http://{0}:{0}@{1}/{0}?{0}", "jwks_unusable"),
        ("http://{0}:{0}@{0}.invalid/{0}?{0}", "jwks_not_fetched"),
        ("http://{0}:{0}@{0}..{0}/{0}?{0}", "jwks_not_fetched"),
    ],
)
async def test_failures_are_logged_without_the_url(
    key_clock: FakeClock, key_server: KeyServer, pattern: str, event: str
) -> None:
    """It may hold a password, and so may the text of an exception."""
    del key_clock
    secret = "canary"
    where = key_server.url.removeprefix("http://").partition("/")[0]
    keys = KeySet(pattern.format(secret, where), CACHE_S)
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(AuthUnavailable) as caught,
    ):
        await keys.find(secret)
    await keys.close()

    assert secret not in "".join(traceback.format_exception(caught.value))
    assert [line["event"] for line in lines] == [event]
    assert secret not in str(lines)


async def test_closing_ends_a_fetch(tokens: Tokens, key_server: KeyServer) -> None:
    """A worker that stops does not wait for the issuer; who waited is told."""
    key_server.open.clear()
    waiting = asyncio.create_task(tokens.identify(token(rsa_key(), kid="one")))
    await key_server.asked.wait()

    async with asyncio.timeout(module.FETCH_TIMEOUT_S / 2):
        await tokens.close()

    with pytest.raises(AuthUnavailable):
        await waiting
