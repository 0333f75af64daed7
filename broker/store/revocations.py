"""Revocations in Redis: from whom access was taken, since when and until when."""

from __future__ import annotations

import math

import msgspec

from broker.store.connection import Connection
from broker.store.scripts import script

REVOKED = "broker:revoked"
"""Hash of ``user:<user>`` or ``token:<id>`` to JSON ``{"at":..,"until":..}``."""
SCRIPTS = ("revoke",)
"""What `broker.store.scripts.load_scripts` must have loaded for `revoke`."""


class Revocation(msgspec.Struct, frozen=True, gc=False):
    """Access that was taken away.

    Attributes:
        at: Unix seconds: tokens that were issued until then are void.
        until: Unix seconds until which that holds.
    """

    at: float
    until: float


_decoder = msgspec.json.Decoder(Revocation)


async def read_all(connection: Connection) -> dict[str, Revocation]:
    """All revocations that have not run out, by their key.

    Raises:
        StoreUnavailable: The connection ended, or the server is not ready.
        StoreRefused: The key has another type.
    """
    time, found = await connection.call_all((b"TIME",), (b"HGETALL", REVOKED))
    now_s = int(time[0])
    read = {key.decode("utf-8", "replace"): _read(raw) for key, raw in found.items()}
    return {key: one for key, one in read.items() if one.until > now_s}


def _read(raw: bytes) -> Revocation:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        # Somebody wrote it by hand and meant something by it: so it holds.
        return Revocation(math.inf, math.inf)


async def revoke(
    connection: Connection, key: str, *, ttl_s: float, leeway_s: float = 0
) -> Revocation:
    """Take access away from *key*, as of now by the clock of Redis.

    What was revoked for longer stays so. Some of what has run out is removed. Workers
    learn of it by a notice, which the caller sends, or when they read all again.

    Args:
        connection: One that knows ``SCRIPTS``.
        key: ``user:<user>`` or ``token:<id>``.
        ttl_s: Seconds for which it holds: as long as the tokens concerned may live.
        leeway_s: Seconds by which the issuer's clock may differ. Both times become
            later by it: a token from a clock that is ahead must not escape.

    Returns:
        What holds now.

    Raises:
        StoreUnavailable: The connection ended, or the server is not ready. It may or
            may not have been revoked.
        StoreRefused: The key in Redis has another type.
    """
    call = script("revoke").call(
        (REVOKED,), key, math.ceil(ttl_s + leeway_s), math.ceil(leeway_s)
    )
    return _read(await connection.call(*call))


async def pardon(connection: Connection, key: str) -> bool:
    """Give access back; whether it had been taken away.

    Raises:
        StoreUnavailable: The connection ended, or the server is not ready.
        StoreRefused: The key has another type.
    """
    return bool(await connection.call(b"HDEL", REVOKED, key))
