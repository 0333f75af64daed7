"""The key set of a token issuer (RFC 7517), fetched and kept."""

from __future__ import annotations

import asyncio
import math
import time
from urllib.parse import urlsplit

import aiohttp
import msgspec
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from broker.control.identity import AuthUnavailable
from broker.errors import BrokerError, ConfigError

log = structlog.get_logger(__name__)

FETCH_TIMEOUT_S = 5.0
KEY_SET_BYTES_MAX = 1024 * 1024
KEYS_MAX = 100
RSA_BITS_MIN = 2048
UNKNOWN_KID_PAUSE_S = 10.0
"""Tokens with unknown keys make us ask the issuer so often at most."""
RETRY_PAUSE_S = 2.0
"""For this long after a failure the issuer is left alone."""


class BadKey(BrokerError):
    """A key that no token may be signed with."""


class BadKeySet(BrokerError):
    """What came from the issuer is no key set; the text repeats nothing of it."""


class TokenKey(msgspec.Struct, frozen=True):
    """What verifies tokens.

    Attributes:
        key: A secret or a public key.
        algorithm: The only one that may be used with it (RFC 8725 section 3.1). The
            kind of key decides, never a token: otherwise a public key, which is no
            secret, could be made the secret of an HMAC.
    """

    key: bytes | RSAPublicKey | EllipticCurvePublicKey
    algorithm: str

    def __repr__(self) -> str:
        # Never the key: it may be a secret.
        return f"TokenKey({self.algorithm})"


def public_token_key(key: object) -> TokenKey:
    """The *key* with its algorithm.

    Raises:
        BadKey: It is not RSA with ``RSA_BITS_MIN`` or on the curve P-256.
    """
    match key:
        case RSAPublicKey() if key.key_size >= RSA_BITS_MIN:
            return TokenKey(key, "RS256")
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return TokenKey(key, "ES256")
        case _:
            pass
    raise BadKey(
        f"must be a public key: RSA with {RSA_BITS_MIN} bits, or EC on the curve P-256"
    )


KeyList = list[tuple[str | None, TokenKey]]


def read_key_set(raw: bytes) -> KeyList:
    """Read the keys that may verify tokens, each with its ``kid``; others are left out.

    Raises:
        BadKeySet: It is no key set, or has none of them. An issuer without keys makes
            no tokens, so that is a mistake, and no reason to lock everybody out.
    """
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise BadKeySet("not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise BadKeySet("no list of keys")
    if len(listed) > KEYS_MAX:
        raise BadKeySet(f"more than {KEYS_MAX} keys")
    keys: KeyList = []
    for jwk in listed:
        key = _read_key(jwk) if isinstance(jwk, dict) else None
        if key is not None:
            kid = jwk.get("kid")
            keys.append((kid if isinstance(kid, str) else None, key))
    if not keys:
        raise BadKeySet("no key for RS256 or ES256")
    return keys


def _read_key(jwk: dict[str, object]) -> TokenKey | None:
    if jwk.get("use", "sig") != "sig":
        return None
    try:
        # Only the public members: a set that shows private ones is used all the same.
        if jwk.get("kty") == "RSA":
            public = {name: jwk.get(name) for name in ("kty", "n", "e")}
            key = public_token_key(RSAAlgorithm.from_jwk(public))
        else:
            public = {name: jwk.get(name) for name in ("kty", "crv", "x", "y")}
            key = public_token_key(ECAlgorithm.from_jwk(public))
    except (PyJWTError, BadKey, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if jwk.get("alg", key.algorithm) == key.algorithm else None


class KeySet:
    """The keys of one issuer, as of the last time that it could be asked.

    One request is under way at a time, and everybody who needs its answer waits for
    that one.

    Args:
        url: Where the key set is; ``http`` or ``https``.
        cache_s: Seconds after which it is fetched again.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, url: str, cache_s: float) -> None:
        _check_url(url)
        self._url = url
        self._cache_s = cache_s
        self._keys: KeyList = []
        self._fetches = 0
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._asked_at = -math.inf
        self._is_away = False
        self._fetching: asyncio.Task[None] | None = None
        self._client: aiohttp.ClientSession | None = None

    async def find(self, kid: str | None) -> TokenKey | None:
        """The key by the name of *kid*; for None the only key, if there is only one.

        Returns:
            None if the issuer has no such key, as of ``UNKNOWN_KID_PAUSE_S`` ago at
            worst.

        Raises:
            AuthUnavailable: The key is not known, and the issuer could not be asked.
        """
        fetches = self._fetches
        await self._freshen()
        key = self._pick(kid)
        if key is None and self._fetches == fetches:
            await self._ask_again()
            key = self._pick(kid)
        if key is None and (self._is_away or not self._keys):
            raise AuthUnavailable("the keys of the token issuer cannot be fetched")
        return key

    def _pick(self, kid: str | None) -> TokenKey | None:
        if kid is None:
            return self._keys[0][1] if len(self._keys) == 1 else None
        return next((key for name, key in self._keys if name == kid), None)

    async def _freshen(self) -> None:
        if time.monotonic() - self._fetched_at < self._cache_s:
            return
        self._start()
        # While the issuer is away nobody waits for it whom the old keys can serve.
        if not self._keys or not self._is_away:
            await self._join()

    async def _ask_again(self) -> None:
        # A flood of made-up keys must not become a flood at the issuer.
        now = time.monotonic()
        if now - self._asked_at >= UNKNOWN_KID_PAUSE_S and self._start():
            self._asked_at = now
        await self._join()

    def _start(self) -> bool:
        """Fetch, unless that is under way or has just failed."""
        rests = time.monotonic() - self._tried_at < RETRY_PAUSE_S
        if self._fetching is not None or (self._is_away and rests):
            return False
        self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        return True

    async def _join(self) -> None:
        # Not the task itself: a client that leaves must not cancel it for the others.
        if self._fetching is not None:
            await asyncio.wait((self._fetching,))

    async def fetch(self) -> int:
        """Ask the issuer now, for who wants to know whether it answers.

        Returns:
            How many keys may verify tokens, one at least.

        Raises:
            BadKeySet: What came is no key set; the text may be shown.
            aiohttp.ClientError, OSError, ValueError: The issuer could not be asked
                within ``FETCH_TIMEOUT_S``. Their texts have the URL, and that may
                contain a password.
        """
        self._keys = read_key_set(await self._download())
        self._fetched_at = time.monotonic()
        self._fetches += 1
        return len(self._keys)

    async def _fetch(self) -> None:
        is_away = True
        try:
            await self.fetch()
            is_away = False
        except BadKeySet as error:
            log.warning("jwks_unusable", error=str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not its text: see above.
            log.warning("jwks_not_fetched", error=type(error).__name__)
        finally:
            self._is_away = is_away
            self._tried_at = time.monotonic()
            self._fetching = None

    async def _download(self) -> bytes:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S),
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Uncompressed, so that the bound is one on memory.
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        # A redirect could lead from https to http.
        async with self._client.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise BadKeySet(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > KEY_SET_BYTES_MAX:
                    raise BadKeySet(f"larger than {KEY_SET_BYTES_MAX} bytes")
            return bytes(body)

    async def close(self) -> None:
        """End what is under way; nothing may be asked afterwards."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))
        if self._client is not None:
            await self._client.close()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "BROKER_JWT_JWKS_URL: must be a URL that begins with https:// or http://"
        )
