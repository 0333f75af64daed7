"""Who makes tokens, for tests: keys of every kind, and a server that shows them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import jwt
import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

SECRET = "a secret that is long enough for HS256, and for HS512 as well: 64"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same key for the same number; making one is slow."""
    del number
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(
    number: int = 0, curve: type[ec.EllipticCurve] = ec.SECP256R1
) -> ec.EllipticCurvePrivateKey:
    """The same key for the same number."""
    del number
    return ec.generate_private_key(curve())


def public_pem(key: Private) -> bytes:
    """The public half as a file holds it."""
    return key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def public_jwk(key: Private, **members: object) -> dict[str, object]:
    """The public half as a key set holds it."""
    public: Any = key.public_key()
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return kind.to_jwk(public, as_dict=True) | members


def key_set(*jwks: dict[str, object]) -> bytes:
    """The document that an issuer shows."""
    return orjson.dumps({"keys": jwks})


def now_s() -> int:
    """Unix time in whole seconds, as issuers write it."""
    return time.time_ns() // 1_000_000_000


def claims(**given: object) -> dict[str, object]:
    """Claims of a good token, changed by what is *given*; None takes one out."""
    good: dict[str, object] = {"sub": "ann", "exp": now_s() + 86_400}
    return {name: one for name, one in (good | given).items() if one is not None}


def signed(
    said: dict[str, object],
    key: Private | str = SECRET,
    algorithm: str = "",
    kid: str | None = None,
) -> str:
    """A token that says so, signed as the kind of key wants it."""
    header = None if kid is None else {"kid": kid}
    return jwt.encode(said, key, algorithm or _usual(key), headers=header)


def _usual(key: Private | str) -> str:
    if isinstance(key, str):
        return "HS256"
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"


def signed_as_is(said: bytes | object) -> str:
    """A token whose claims no library would sign, with the secret."""
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    return jwt.api_jws.encode(raw, SECRET, "HS256")


def part(value: bytes | object) -> str:
    """One part of a token, without any check."""
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(key: Private, kid: str | None = None) -> str:
    """A good token that names its key."""
    return signed(claims(), key, kid=kid)


def handmade(header: object, said: object, signature: bytes = b"") -> str:
    """A token that no library would make."""
    return f"{part(header)}.{part(said)}.{part(signature)}"


ONE = public_jwk(rsa_key(), kid="one")
TWO = public_jwk(ec_key(), kid="two")


class KeyServer:
    """Shows a key set at ``url``; what it answers may be changed at any time.

    Attributes:
        body: The key set.
        status: Of its answers.
        headers: Of its answers.
        requests: How often it was asked.
        open: Cleared to let those who ask wait.
        hangs_up: Whether it cuts connections instead of answering.
    """

    def __init__(self, jwks: Sequence[dict[str, object]] = ()) -> None:
        self.body = key_set(*jwks)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.hangs_up = False
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        app = web.Application()
        app.router.add_get("/keys", self._handle)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("/keys"))

    def show(self, *jwks: dict[str, object]) -> None:
        """Change the keys."""
        self.body = key_set(*jwks)

    async def start(self) -> None:
        await self._server.start_server()

    async def stop(self) -> None:
        self.open.set()
        await self._server.close()

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.asked.set()
        await self.open.wait()
        if self.hangs_up and request.transport is not None:
            request.transport.abort()
        return web.Response(body=self.body, status=self.status, headers=self.headers)
