"""Who reads tokens, for tests: one for each kind of key."""

from __future__ import annotations

import pytest

from broker.control.identity import AuthUnavailable, Unauthorized
from broker.control.jwks import TokenKey
from broker.control.tokens import Tokens
from tests.unit.control.issuer import SECRET, ec_key, rsa_key

HS256 = Tokens(TokenKey(SECRET.encode(), "HS256"))
RS256 = Tokens(TokenKey(rsa_key().public_key(), "RS256"))
ES256 = Tokens(TokenKey(ec_key().public_key(), "ES256"))
STRICT = Tokens(
    TokenKey(SECRET.encode(), "HS256"), "broker", "https://issuer", leeway_s=60
)
ALGORITHMS = ["HS256", "RS256", "ES256"]
UNAUTHORIZED = ("unauthorized", "a valid token is needed")


async def refusal(tokens: Tokens, token: str) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        await tokens.identify(token)
    return caught.value


async def assert_unavailable(tokens: Tokens, token: str) -> None:
    with pytest.raises(AuthUnavailable):
        await tokens.identify(token)


async def assert_refused(tokens: Tokens, token: str, reason: str) -> None:
    error = await refusal(tokens, token)
    assert (error.code, error.message) == UNAUTHORIZED
    assert error.reason == reason
