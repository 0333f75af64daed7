"""Tokens that prove something, and all those that do not."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from broker.config import load_settings
from broker.control.identity import Identity
from broker.control.tokens import Tokens
from broker.errors import ConfigError
from tests.unit.control.issuer import (
    SECRET,
    Private,
    claims,
    ec_key,
    handmade,
    now_s,
    part,
    public_pem,
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
    assert_refused,
    refusal,
)


def from_settings(**given: str) -> Tokens:
    named = {f"BROKER_{name.upper()}": value for name, value in given.items()}
    return Tokens.from_settings(
        load_settings(named | {"BROKER_AUTH": "jwt"}, env_file=None)
    )


@pytest.mark.parametrize(
    ("tokens", "key"),
    [(HS256, SECRET), (RS256, rsa_key()), (ES256, ec_key())],
    ids=ALGORITHMS,
)
async def test_a_signed_token_is_believed(tokens: Tokens, key: Private | str) -> None:
    """All that it says becomes the identity."""
    exp, iat = now_s() + 600, now_s() - 5
    said = {
        "sub": "Ünal",
        "exp": exp,
        "iat": iat,
        "jti": "t-1",
        "rights": ["subscribe", "command", "subscribe"],
        "sessions": ["room-*", "lobby", "lobby"],
        "command_sessions": ["lobby"],
        "max_sessions": 5,
        "max_connections": 0,
        "scope": "anything else",
    }
    identity = await tokens.identify(signed(said, key))

    assert (identity.user, identity.token_id) == ("Ünal", "t-1")
    assert (identity.expires_at, identity.issued_at) == (exp, iat)
    assert identity.may_subscribe("room-1")
    assert identity.may_command("lobby")
    assert not identity.may_command("room-1")
    assert not identity.may_publish("lobby")
    assert (identity.max_sessions, identity.max_connections) == (5, 0)


async def test_a_token_that_grants_nothing_allows_nothing() -> None:
    """A token of the same issuer for something else opens no session."""
    identity = await HS256.identify(signed(claims()))

    assert identity == Identity("ann", expires_at=identity.expires_at)
    assert not identity.may_subscribe("s1")


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "JWT"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
    ],
)
@pytest.mark.parametrize("tokens", [HS256, RS256, ES256], ids=ALGORITHMS)
async def test_an_unsigned_token_is_refused(
    tokens: Tokens, header: dict[str, object]
) -> None:
    """``alg: none`` and its relatives are no algorithm of any key."""
    await assert_refused(tokens, handmade(header, claims(sub="root")), "algorithm")


@pytest.mark.parametrize(
    ("tokens", "key"), [(RS256, rsa_key()), (ES256, ec_key())], ids=["RS256", "ES256"]
)
async def test_a_public_key_is_not_a_secret(tokens: Tokens, key: Private) -> None:
    """HS256 with the public key as secret, which everybody can make, is refused."""
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed_part = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims(sub='root'))}"
    forged = algorithm.sign(signed_part.encode(), public_pem(key))

    await assert_refused(tokens, f"{signed_part}.{part(forged)}", "algorithm")


@pytest.mark.parametrize(
    ("tokens", "key", "algorithm"),
    [
        (HS256, SECRET, "HS512"),
        (HS256, rsa_key(), "RS256"),
        (RS256, rsa_key(), "RS512"),
        (RS256, rsa_key(), "PS256"),
        (RS256, ec_key(), "ES256"),
        (ES256, rsa_key(), "RS256"),
        (ES256, ec_key(0, ec.SECP384R1), "ES384"),
    ],
)
async def test_a_key_has_one_algorithm(
    tokens: Tokens, key: Private | str, algorithm: str
) -> None:
    """What the token names is compared with it and decides nothing."""
    await assert_refused(tokens, signed(claims(), key, algorithm), "algorithm")


@pytest.mark.parametrize(
    ("tokens", "key"),
    [(HS256, SECRET + "x"), (RS256, rsa_key(1)), (ES256, ec_key(1))],
    ids=ALGORITHMS,
)
async def test_a_token_of_another_key_is_refused(
    tokens: Tokens, key: Private | str
) -> None:
    """Of the right kind, but not ours."""
    await assert_refused(tokens, signed(claims(), key), "signature")


async def test_a_changed_token_is_refused() -> None:
    """Claims of one token under the signature of another prove nothing."""
    head, _, signature = signed(claims()).split(".")

    await assert_refused(
        HS256, f"{head}.{part(claims(sub='root'))}.{signature}", "signature"
    )


async def test_an_expired_token_says_so() -> None:
    """It is the one refusal that tells what helps: a new token."""
    error = await refusal(HS256, signed(claims(exp=now_s() - 1)))

    assert error.code == "token_expired"
    assert error.message == "the token has expired; get a new one"


async def test_expired_is_only_said_of_tokens_that_were_good() -> None:
    """A forged token learns nothing about time."""
    token = signed(claims(exp=now_s() - 1), SECRET + "x")

    await assert_refused(HS256, token, "signature")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_from_the_future_is_refused(claim: str) -> None:
    """Not yet valid, or issued later than now."""
    token = signed(claims(**{claim: now_s() + 100}))

    await assert_refused(HS256, token, "not_yet_valid")


async def test_clocks_may_differ_by_the_leeway() -> None:
    """In either direction, and the identity lasts as long as the token is accepted."""
    exp, nbf = now_s() - 30, now_s() + 30
    ours = {"aud": "broker", "iss": "https://issuer"}
    late = await STRICT.identify(signed(claims(**ours, exp=exp)))
    early = await STRICT.identify(signed(claims(**ours, nbf=nbf, iat=nbf)))

    assert late.expires_at == exp + 60
    assert early.issued_at == nbf
    error = await refusal(STRICT, signed(claims(**ours, exp=now_s() - 61)))
    assert error.code == "token_expired"
    await assert_refused(
        STRICT, signed(claims(**ours, nbf=now_s() + 100)), "not_yet_valid"
    )


@pytest.mark.parametrize("audience", ["broker", ["other", "broker"]])
async def test_a_token_for_us_is_believed(audience: object) -> None:
    """``aud`` is one text or a list of them (RFC 7519 section 4.1.3)."""
    token = signed(claims(aud=audience, iss="https://issuer"))

    assert (await STRICT.identify(token)).user == "ann"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"aud": "other"}, "audience"),
        ({"aud": "brokers"}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": {"broker": 1}}, "audience"),
        ({"aud": ["broker", 5]}, "audience"),
        ({"aud": []}, "claims"),
        ({"aud": None}, "claims"),
        ({"iss": "https://issuer/"}, "issuer"),
        ({"iss": ["https://issuer"]}, "issuer"),
        ({"iss": None}, "claims"),
    ],
)
async def test_a_token_for_or_of_somebody_else_is_refused(
    said: dict[str, object], reason: str
) -> None:
    """Nearly the right name is another name, and no name is no name."""
    ours: dict[str, object] = {"aud": "broker", "iss": "https://issuer"}

    await assert_refused(STRICT, signed_as_is(claims(**(ours | said))), reason)


async def test_audience_and_issuer_are_free_where_none_is_configured() -> None:
    """A token may name what nobody asked for."""
    token = signed(claims(aud="other", iss="https://elsewhere"))

    assert (await HS256.identify(token)).user == "ann"


async def test_the_secret_comes_from_the_settings() -> None:
    """With all that is checked besides."""
    tokens = from_settings(
        jwt_secret=SECRET, jwt_audience="broker", jwt_issuer="me", jwt_leeway_s="60"
    )
    said = claims(aud="broker", iss="me", exp=now_s() - 30)

    assert (await tokens.identify(signed(said))).user == "ann"
    await assert_refused(tokens, signed(said | {"aud": "x"}), "audience")
    await assert_refused(tokens, signed(said | {"iss": "x"}), "issuer")


@pytest.mark.parametrize("key", [rsa_key(), ec_key()], ids=["RS256", "ES256"])
async def test_the_public_key_comes_from_a_file(tmp_path: Path, key: Private) -> None:
    """The kind of the key decides the algorithm."""
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(key))
    tokens = from_settings(jwt_public_key_file=str(path))

    assert (await tokens.identify(signed(claims(), key))).user == "ann"
    await assert_refused(tokens, signed(claims()), "algorithm")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no public key in PEM format"),
        (b"canary", "holds no public key in PEM format"),
        (
            rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "holds no public key in PEM format",
        ),
        (public_pem(rsa_key(0, 1024)), "RSA with 2048 bits"),
        (public_pem(ec_key(0, ec.SECP384R1)), "on the curve P-256"),
        (
            public_pem(ed25519.Ed25519PrivateKey.generate()),  # type: ignore[arg-type]
            "must be a public key",
        ),
    ],
    ids=["empty", "text", "private", "short", "curve", "kind"],
)
def test_a_file_without_a_usable_key_is_refused(
    tmp_path: Path, content: bytes, why: str
) -> None:
    """At the start, by the name of the setting, without what is in the file."""
    path = tmp_path / "key.pem"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="BROKER_JWT_PUBLIC_KEY_FILE") as caught:
        from_settings(jwt_public_key_file=str(path))

    assert why in str(caught.value)
    for line in content.decode().splitlines()[1:-1]:
        assert line not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is no secret."""
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        from_settings(jwt_public_key_file=str(tmp_path / "none.pem"))


def test_a_public_key_as_secret_is_refused() -> None:
    """Everybody could make tokens with it."""
    with pytest.raises(ConfigError, match="BROKER_JWT_SECRET") as caught:
        from_settings(jwt_secret=public_pem(rsa_key()).decode())

    assert "BEGIN" not in str(caught.value)
