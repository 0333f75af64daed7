"""Texts that are no tokens, and tokens that say what cannot be used."""

from __future__ import annotations

import json
import traceback

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.control.identity import Unauthorized
from broker.control.jwks import TokenKey
from broker.control.tokens import TIME_MAX_S, TOKEN_BYTES_MAX, Tokens
from tests.unit.control.issuer import (
    SECRET,
    claims,
    handmade,
    rsa_key,
    signed,
    signed_as_is,
)
from tests.unit.control.judges import (
    ALGORITHMS,
    ES256,
    HS256,
    RS256,
    STRICT,
    UNAUTHORIZED,
    assert_refused,
    refusal,
)


async def test_a_truncated_token_is_refused() -> None:
    """Wherever it was cut."""
    token = signed(claims())
    refusals = [await refusal(HS256, token[:cut]) for cut in range(len(token))]

    assert {(error.code, error.message) for error in refusals} == {UNAUTHORIZED}
    assert {error.reason for error in refusals} == {"malformed", "signature"}


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d",
        "bearer",
        "ключ.ключ.ключ",
        "é" * 100,
        "\ud800",
        "\x00.\x00.\x00",
        handmade({"alg": "HS256", "b64": False, "crit": ["b64"]}, b""),
    ],
)
async def test_what_is_no_token_is_refused(token: str) -> None:
    """Empty, cut into odd parts, or of any script."""
    await assert_refused(HS256, token, "malformed")


@pytest.mark.parametrize(
    "header",
    [
        b"\xff",
        b"[" * 3000,
        [],
        {"alg": "HS256", "kid": 5},
        {"alg": "HS256", "crit": ["x"], "x": 1},
    ],
    ids=["bytes", "nested", "list", "kid", "crit"],
)
async def test_a_header_that_is_none_is_refused(header: object) -> None:
    """No text, nested too deeply, or with an extension that nobody knows."""
    await assert_refused(HS256, handmade(header, claims()), "malformed")


@pytest.mark.parametrize("pattern", [" {}", "{}\n", "{}.", ".{}", "{}{}"])
async def test_a_good_token_with_more_around_it_is_refused(pattern: str) -> None:
    """What is not exactly a token is none."""
    token = signed(claims())

    await assert_refused(HS256, pattern.format(token, token), "malformed")


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"\xff", b"{", b"[" * 3000],
    ids=["empty", "list", "null", "bytes", "cut", "nested"],
)
async def test_signed_nonsense_is_refused(payload: bytes) -> None:
    """An issuer that signs what is no object grants nothing by it."""
    await assert_refused(HS256, signed_as_is(payload), "malformed")


async def test_an_oversized_token_is_not_even_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The largest is read, one byte more is not looked at."""
    bare = len(signed(claims(pad="")))
    largest = signed(claims(pad="x" * ((TOKEN_BYTES_MAX - bare) * 3 // 4)))
    assert TOKEN_BYTES_MAX - 4 < len(largest) <= TOKEN_BYTES_MAX
    assert (await HS256.identify(largest)).user == "ann"

    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("was parsed"))
    too_large = largest + "x" * (TOKEN_BYTES_MAX + 1 - len(largest))
    await assert_refused(HS256, too_large, "malformed")


@pytest.mark.parametrize(
    "said",
    [
        claims(sub=None),
        claims(exp=None),
        claims(sub=""),
        claims(sub="a\nb"),
        claims(sub="x" * 257),
        claims(rights=["read"]),
        claims(rights="subscribe"),
        claims(sessions=["a*b"]),
        claims(sessions={"a": 1}),
        claims(command_sessions=["_probe"]),
        claims(max_sessions=-1),
        claims(max_connections=True),
        claims(jti=""),
        claims(jti="a\x00"),
        claims(exp="4102444800"),
        claims(exp=TIME_MAX_S * 2),
        claims(exp=10**400),
        claims(iat="5"),
        claims(iat=True),
    ],
)
async def test_claims_that_cannot_be_used_refuse_the_token(
    said: dict[str, object],
) -> None:
    """A token without a user or an end, or with a right that is none, opens nothing."""
    await assert_refused(HS256, signed(said), "claims")


@pytest.mark.parametrize(
    "said",
    [
        {"sub": 7},
        {"sub": ["ann"]},
        {"jti": 5},
        {"exp": "soon"},
        {"exp": [1]},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": "x"},
        {"iat": {}},
    ],
)
async def test_standard_claims_of_a_wrong_type_refuse_the_token(
    said: dict[str, object],
) -> None:
    """RFC 7519 says what they are."""
    await assert_refused(HS256, signed_as_is(claims() | said), "malformed")


@pytest.mark.parametrize("tokens", [HS256, RS256, ES256], ids=ALGORITHMS)
async def test_no_part_of_a_token_or_key_is_in_a_traceback(tokens: Tokens) -> None:
    """Neither the error nor what led to it quotes what it was given."""
    bad = {
        handmade({"alg": "canary"}, claims(sub="canary")),
        handmade({"alg": "HS256", "kid": "canary"}, claims(sub="canary"), b"canary"),
        handmade({"alg": "HS256", "crit": ["canary"], "canary": 1}, claims()),
        handmade(b'{"canary', claims()),
        "canary.canary.canary",
        "canary\ud800",
        signed(claims(sub="canary\n", aud="canary", jti="canary", rights=["canary"])),
        signed(claims(exp=1, sub="canary"), rsa_key(), kid="canary"),
    }
    for token in bad:
        error = await refusal(tokens, token)
        lines = "".join(traceback.format_exception(error))
        assert error.__context__ is None
        for secret in ("canary", SECRET, *filter(None, token.split("."))):
            assert secret not in lines
            assert secret not in repr(error)


def test_a_key_does_not_show_itself() -> None:
    """A secret that gets into a log line by mistake is not in it."""
    assert repr(TokenKey(SECRET.encode(), "HS256")) == "TokenKey(HS256)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
CLAIM_NAMES = st.sampled_from(
    ["sub", "exp", "iat", "nbf", "jti", "aud", "iss", "rights", "sessions"]
)


@given(st.dictionaries(CLAIM_NAMES, JSON, max_size=4))
@settings(max_examples=200)
async def test_signed_claims_of_any_kind_end_in_an_answer(
    said: dict[str, object],
) -> None:
    """An identity or a refusal; nothing else comes out."""
    try:
        await STRICT.identify(signed_as_is(claims() | said))
    except Unauthorized:
        return


@given(JSON, JSON, st.binary(max_size=40), st.text(max_size=5))
@settings(max_examples=200)
async def test_unsigned_parts_of_any_kind_end_in_a_refusal(
    header: object, said: object, signature: bytes, tail: str
) -> None:
    """Whatever a stranger sends."""
    parts = [json.dumps(one).encode() for one in (header, said)]

    await refusal(RS256, handmade(parts[0], parts[1], signature) + tail)
