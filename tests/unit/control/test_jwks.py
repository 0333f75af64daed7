"""Key sets: what is read from them, and when they are fetched."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from broker.control.identity import Unauthorized
from broker.control.jwks import (
    KEYS_MAX,
    UNKNOWN_KID_PAUSE_S,
    BadKeySet,
    KeySet,
    read_key_set,
)
from broker.control.tokens import Tokens
from broker.errors import ConfigError
from tests.fakes import FakeClock
from tests.unit.control.conftest import CACHE_S
from tests.unit.control.issuer import (
    ONE,
    SECRET,
    TWO,
    KeyServer,
    claims,
    ec_key,
    key_set,
    part,
    public_jwk,
    rsa_key,
    signed,
    token,
)
from tests.unit.control.judges import assert_refused

UNUSABLE: list[dict[str, object]] = [
    ONE | {"use": "enc"},
    ONE | {"use": None},
    ONE | {"alg": "RS512"},
    ONE | {"alg": "HS256"},
    ONE | {"alg": "none"},
    ONE | {"n": None},
    ONE | {"n": "!"},
    ONE | {"n": ""},
    ONE | {"e": 3},
    ONE | {"kty": "EC"},
    TWO | {"kty": "RSA"},
    TWO | {"alg": "RS256"},
    TWO | {"crv": "P-384"},
    TWO | {"x": TWO["y"]},
    TWO | {"x": "AAAA"},
    public_jwk(rsa_key(0, 1024), kid="short"),
    public_jwk(ec_key(0, ec.SECP384R1), kid="curve"),
    {"kty": "oct", "k": part(SECRET.encode()), "alg": "HS256", "kid": "secret"},
    {"kty": "OKP", "crv": "Ed25519", "x": part(b"x" * 32)},
    {"kid": "one"},
    {},
]


async def assert_unknown(tokens: Tokens, text: str) -> None:
    await assert_refused(tokens, text, "unknown_key")


# What is read.


def test_keys_for_signatures_are_read_with_their_algorithm() -> None:
    """It is that of the kind of key, whether the set names it or not."""
    read = read_key_set(
        key_set(ONE, TWO | {"use": "sig", "alg": "ES256"}, public_jwk(rsa_key(1)))
    )

    assert [(kid, key.algorithm) for kid, key in read] == [
        ("one", "RS256"),
        ("two", "ES256"),
        (None, "RS256"),
    ]


@pytest.mark.parametrize("jwk", UNUSABLE)
def test_a_key_that_cannot_verify_tokens_is_left_out(jwk: dict[str, object]) -> None:
    """Keys for encryption, other algorithms, short and broken ones, and secrets."""
    good = public_jwk(ec_key(1), kid="good")

    assert [kid for kid, _ in read_key_set(key_set(jwk, good))] == ["good"]


def test_of_a_private_key_only_the_public_half_is_taken() -> None:
    """An issuer's mistake does not put its secret into our memory."""
    shown = RSAAlgorithm.to_jwk(rsa_key(), as_dict=True) | {"key_ops": ["verify"]}
    assert "d" in shown

    ((_, key),) = read_key_set(key_set(shown))

    assert key.key == rsa_key().public_key()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not JSON"),
        (b"<html>canary</html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "no list of keys"),
        (b'{"keys": {}}', "no list of keys"),
        (b'{"canary": []}', "no list of keys"),
        (b'{"keys": []}', "no key for"),
        (b'{"keys": ["canary", null, 5, []]}', "no key for"),
        (key_set(*UNUSABLE), "no key for"),
        (key_set(*[{}] * (KEYS_MAX + 1)), "more than"),
    ],
    ids=range(11),
)
def test_what_is_no_key_set_is_refused(raw: bytes, why: str) -> None:
    """The reason is said and nothing is repeated."""
    with pytest.raises(BadKeySet, match=why) as caught:
        read_key_set(raw)

    assert "canary" not in str(caught.value)


MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "n", "e", "crv", "x", "y", "use", "alg", "kid"]),
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=9)
    | st.lists(st.none(), max_size=1)
    | st.sampled_from(["RSA", "EC", "P-256", "AQAB", "sig", ONE["n"], TWO["x"]]),
    max_size=3,
)


@given(st.sampled_from([{}, ONE, TWO]), MEMBERS)
def test_members_of_any_kind_end_in_an_answer(
    good: dict[str, object], members: dict[str, object]
) -> None:
    """One odd key does not cost the others."""
    assert read_key_set(key_set(good | members, TWO))[-1][0] == "two"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer/keys",
        "ftp://i/keys",
        "file:///keys",
        "https://",
        "https://[",
        "http://i:x/",
    ],
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    """At the start, by the name of the setting."""
    with pytest.raises(ConfigError, match=r"BROKER_JWT_JWKS_URL: must be a URL"):
        KeySet(url, CACHE_S)


# When it is fetched.


async def test_tokens_are_verified_by_the_key_that_they_name(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """The set is fetched once for all of them."""
    key_server.show(ONE, TWO)

    for text in (token(rsa_key(), kid="one"), token(ec_key(), kid="two")):
        assert (await tokens.identify(text)).user == "ann"
    assert key_server.requests == 1


async def test_another_key_than_the_named_one_proves_nothing(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """Nor does a signature of another kind, such as HS256 with the public key."""
    key_server.show(ONE, TWO)
    crossed = [token(rsa_key(1), kid="one"), token(ec_key(), kid="one")]
    for text in (*crossed, signed(claims(), kid="one"), signed(claims(), kid="two")):
        with pytest.raises(Unauthorized) as caught:
            await tokens.identify(text)
        assert caught.value.reason in {"signature", "algorithm"}


async def test_a_token_without_kid_is_for_the_only_key(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """With several keys it names none."""
    key_server.show(ONE)
    assert (await tokens.identify(token(rsa_key()))).user == "ann"

    key_server.show(ONE, TWO)
    await assert_unknown(tokens, token(rsa_key(), kid="other"))
    await assert_unknown(tokens, token(rsa_key()))


async def test_the_first_of_two_keys_with_one_kid_counts(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """A duplicate cannot take the place of a key."""
    key_server.show(ONE, TWO | {"kid": "one"})

    assert (await tokens.identify(token(rsa_key(), kid="one"))).user == "ann"
    with pytest.raises(Unauthorized):
        await tokens.identify(token(ec_key(), kid="one"))


async def test_a_set_is_fetched_again_when_it_is_old(
    tokens: Tokens, key_server: KeyServer, key_clock: FakeClock
) -> None:
    """A key that was taken out is refused from then on."""
    key_server.show(ONE, TWO)
    await tokens.identify(token(rsa_key(), kid="one"))
    key_server.show(TWO)

    key_clock.advance(CACHE_S - 1)
    await tokens.identify(token(rsa_key(), kid="one"))
    key_clock.advance(1)
    await assert_unknown(tokens, token(rsa_key(), kid="one"))

    assert key_server.requests == 2
    assert (await tokens.identify(token(ec_key(), kid="two"))).user == "ann"


async def test_a_new_key_is_found_at_once(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """An issuer may begin to sign with it as soon as it shows it."""
    key_server.show(ONE)
    await tokens.identify(token(rsa_key(), kid="one"))

    key_server.show(ONE, TWO)

    assert (await tokens.identify(token(ec_key(), kid="two"))).user == "ann"
    assert (await tokens.identify(token(rsa_key(), kid="one"))).user == "ann"
    assert key_server.requests == 2


async def test_unknown_kids_do_not_flood_the_issuer(
    tokens: Tokens, key_server: KeyServer, key_clock: FakeClock
) -> None:
    """It is asked once in ten seconds, however many there are, and then again."""
    key_server.show(ONE)
    await tokens.identify(token(rsa_key(), kid="one"))

    for number in range(100):
        await assert_unknown(tokens, token(rsa_key(), kid=f"made-up-{number}"))
    assert key_server.requests == 2
    key_clock.advance(UNKNOWN_KID_PAUSE_S)
    for number in range(100):
        await assert_unknown(tokens, token(rsa_key(), kid=f"made-up-{number}"))
    assert key_server.requests == 3


async def test_an_unknown_kid_as_the_first_fetches_once(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """A set that was fetched for this very token need not be fetched again."""
    key_server.show(ONE)

    await assert_unknown(tokens, token(rsa_key(), kid="none"))

    assert key_server.requests == 1


async def test_concurrent_tokens_share_one_fetch(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """Whoever comes while it is under way waits for that one."""
    key_server.show(ONE)
    key_server.open.clear()
    text = token(rsa_key(), kid="one")
    waiting = [asyncio.create_task(tokens.identify(text)) for _ in range(50)]
    await key_server.asked.wait()

    key_server.open.set()

    assert {one.user for one in await asyncio.gather(*waiting)} == {"ann"}
    assert key_server.requests == 1


async def test_a_client_that_leaves_does_not_end_the_fetch(
    tokens: Tokens, key_server: KeyServer
) -> None:
    """The others still get their answer from it."""
    key_server.show(ONE)
    key_server.open.clear()
    text = token(rsa_key(), kid="one")
    leaves = asyncio.create_task(tokens.identify(text))
    stays = asyncio.create_task(tokens.identify(text))
    await key_server.asked.wait()

    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    key_server.open.set()

    assert (await stays).user == "ann"
    assert key_server.requests == 1
