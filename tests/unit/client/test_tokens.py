"""One token for all connections."""

from __future__ import annotations

import asyncio

import pytest

from broker.client.tokens import TokenReason, Tokens


class Provider:
    """Makes tokens when it may.

    Attributes:
        reasons: Why it was asked.
    """

    def __init__(self, *tokens: str) -> None:
        self.reasons: list[TokenReason] = []
        self.may = asyncio.Event()
        self.may.set()
        self._tokens = list(tokens)

    async def __call__(self, reason: TokenReason) -> str:
        self.reasons.append(reason)
        await self.may.wait()
        return self._tokens.pop(0)


async def test_text_is_the_token_for_good():
    """There is no other one."""
    tokens = Tokens("t1")

    assert await tokens.current() == "t1"
    assert await tokens.renew("t1", "refused") == "t1"
    assert not tokens.renewable


async def test_provider_is_asked_when_a_token_is_needed():
    """And not for each connection."""
    provider = Provider("t1", "t2")
    tokens = Tokens(provider)
    first = [await tokens.current(), await tokens.current()]
    second = await tokens.renew("t1", "expiring")

    assert (first, second) == (["t1", "t1"], "t2")
    assert await tokens.current() == "t2"
    assert provider.reasons == ["connect", "expiring"]


async def test_many_connections_ask_once():
    """Their token ends at the same time."""
    provider = Provider("t1", "t2")
    tokens = Tokens(provider)
    await tokens.current()
    provider.may.clear()
    asking = [asyncio.create_task(tokens.renew("t1", "expiring")) for _ in range(5)]
    await asyncio.sleep(0)
    provider.may.set()

    assert await asyncio.gather(*asking) == ["t2"] * 5
    assert provider.reasons == ["connect", "expiring"]


async def test_who_gives_up_asking_leaves_it_to_the_next():
    """A cancelled connection does not hold the others up."""
    provider = Provider("t1")
    provider.may.clear()
    tokens = Tokens(provider)
    gone = asyncio.create_task(tokens.current())
    there = asyncio.create_task(tokens.current())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait((gone,))
    provider.may.set()

    assert await there == "t1"


@pytest.mark.parametrize("bad", ["a\nb", "tökén", "a\0"])
async def test_what_no_header_can_carry_is_refused_unsaid(bad: str):
    """The error does not repeat it: it may be a token all the same."""
    with pytest.raises(ValueError, match="printable ASCII") as at_once:
        Tokens(bad)
    with pytest.raises(ValueError, match="printable ASCII") as later:
        await Tokens(Provider(bad)).current()

    assert bad not in str(at_once.value) + str(later.value)
