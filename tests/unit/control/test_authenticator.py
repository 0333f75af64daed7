"""Who somebody is, in each mode."""

from __future__ import annotations

import traceback
from collections.abc import Coroutine
from typing import Any

import orjson
import pytest

from broker.config import load_settings
from broker.control.api_keys import new_key
from broker.control.authenticator import Authenticator
from broker.control.identity import (
    AuthUnavailable,
    Identity,
    Unauthorized,
    everybody,
)
from broker.errors import ConfigError
from tests.unit.control.issuer import (
    SECRET,
    KeyServer,
    claims,
    ec_key,
    public_jwk,
    signed,
)

KEY, RECORD = new_key("ann", ["subscribe"], ["*"])


def authenticator(**given: str) -> Authenticator:
    named = {f"BROKER_{name.upper()}": value for name, value in given.items()}
    return Authenticator(load_settings(named, env_file=None))


def by_key() -> Authenticator:
    return authenticator(auth="api_key", api_keys=orjson.dumps([RECORD]).decode())


def by_secret() -> Authenticator:
    return authenticator(auth="jwt", jwt_secret=SECRET)


def at_once(answer: Coroutine[Any, Any, Identity]) -> Identity:
    """Run it without a loop; it fails if it waits for anything."""
    with pytest.raises(StopIteration) as done:
        answer.send(None)
    identity: Identity = done.value.value
    return identity


@pytest.mark.parametrize("token", ["", "anything"])
async def test_without_authentication_everybody_is_let_in(token: str) -> None:
    """A token is not asked for and not looked at."""
    assert await authenticator(auth="none").identify(token) == everybody("")


def test_keys_and_secrets_are_judged_at_once() -> None:
    """No turn of the loop is needed, so nobody can be overtaken while it is done."""
    assert at_once(by_key().identify(KEY)).user == "ann"
    assert at_once(by_secret().identify(signed(claims()))).user == "ann"


async def test_tokens_are_judged_by_the_issuers_keys(key_server: KeyServer) -> None:
    """They are fetched when the first one comes."""
    key_server.show(public_jwk(ec_key(), kid="two"))
    judge = authenticator(auth="jwt", jwt_jwks_url=key_server.url)
    assert key_server.requests == 0

    identity = await judge.identify(signed(claims(), ec_key(), kid="two"))
    await judge.close()

    assert identity.user == "ann"


async def test_an_issuer_that_is_away_is_no_refusal(key_server: KeyServer) -> None:
    """The client is told to come back, not to give up."""
    key_server.status = 500
    judge = authenticator(auth="jwt", jwt_jwks_url=key_server.url)

    with pytest.raises(AuthUnavailable):
        await judge.identify(signed(claims(), ec_key(), kid="two"))
    await judge.close()


@pytest.mark.parametrize("make", [by_key, by_secret])
@pytest.mark.parametrize(
    "token",
    ["", "canary", "canary.canary.canary", "bk_canary", "canary\udcff", KEY + "="],
    ids=["none", "word", "three words", "like a key", "no text", "nearly a key"],
)
async def test_every_refusal_reads_the_same(make: Any, token: str) -> None:
    """In all modes, and none repeats what it was given."""
    with pytest.raises(Unauthorized) as caught:
        await make().identify(token)

    error = caught.value
    assert (error.code, str(error)) == ("unauthorized", "a valid token is needed")
    lines = "".join(traceback.format_exception(error))
    assert "canary" not in lines
    assert KEY[3:] not in lines


async def test_a_credential_of_another_mode_is_refused() -> None:
    """Only one way in is open at a time."""
    with pytest.raises(Unauthorized):
        await by_secret().identify(KEY)
    with pytest.raises(Unauthorized):
        await by_key().identify(signed(claims()))


async def test_closing_what_opened_nothing_is_fine() -> None:
    """A worker closes it whatever the mode."""
    for judge in (authenticator(auth="none"), by_key(), by_secret()):
        await judge.close()


def test_settings_that_cannot_work_fail_the_start() -> None:
    """Before anybody connects."""
    with pytest.raises(ConfigError, match="BROKER_API_KEYS: is not JSON"):
        authenticator(auth="api_key", api_keys="canary")
    with pytest.raises(ConfigError, match="BROKER_JWT_JWKS_URL"):
        authenticator(auth="jwt", jwt_jwks_url="ftp://issuer")
    with pytest.raises(ConfigError, match="BROKER_JWT_PUBLIC_KEY_FILE"):
        authenticator(auth="jwt", jwt_public_key_file="/nowhere/key.pem")
