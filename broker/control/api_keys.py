"""API keys: random texts that the broker knows only by their hashes.

A plain SHA-256 is right here, where it would be wrong for passwords: a key has 256
random bits, so nobody can try them all, however fast the hash is. A slow hash would
only make each connection slow, and a salt has nothing to hide from tables that nobody
can make.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import orjson

from broker.config import Settings
from broker.control.identity import (
    BadClaims,
    Identity,
    read_identity,
    read_name,
    unauthorized,
)
from broker.errors import ConfigError

KEY_PREFIX = "bk_"
"""So that people and scanners recognise a key that has got out."""
KEY_BYTES = 32

_HASH = re.compile(r"sha256:([0-9a-f]{64})\Z")
_REQUIRED = ("hash", "user", "rights", "sessions")
_OPTIONAL = ("command_sessions", "max_sessions", "max_connections", "name")


class _Entry(msgspec.Struct, frozen=True):
    digest: bytes
    identity: Identity | None


def new_key(
    user: str,
    rights: Sequence[str],
    sessions: Sequence[str],
    *,
    command_sessions: Sequence[str] | None = None,
    max_sessions: int | None = None,
    max_connections: int | None = None,
    name: str | None = None,
) -> tuple[str, dict[str, object]]:
    """Make a key.

    Args:
        user: Whose key it is.
        rights: Texts of `broker.control.identity.Right`.
        sessions: Names, or beginnings of names with ``*`` behind them.
        command_sessions: Those it may send commands to; None: the same.
        max_sessions: Open sessions of the user, 0 for no limit; None: as configured.
        max_connections: Open connections of the user, likewise.
        name: What tells the key from others; it can be revoked by it.

    Returns:
        The key, which is shown once and kept by nobody but its owner, and the record
        that goes into the settings.

    Raises:
        BadClaims: One of these cannot be used.
    """
    random = secrets.token_bytes(KEY_BYTES)
    key = KEY_PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()
    record: dict[str, object] = {
        "hash": f"sha256:{_digest(key).hex()}",
        "user": user,
        "rights": list(rights),
        "sessions": list(sessions),
        "command_sessions": None if command_sessions is None else [*command_sessions],
        "max_sessions": max_sessions,
        "max_connections": max_connections,
        "name": name,
    }
    record = {field: value for field, value in record.items() if value is not None}
    _read_record(record)
    return key, record


class ApiKeys:
    """All keys that may connect, by their digests."""

    def __init__(self, entries: dict[bytes, Identity]) -> None:
        self._entries = {
            digest: _Entry(digest, identity) for digest, identity in entries.items()
        }
        # Found for every key that is not there.
        self._nobody = _Entry(secrets.token_bytes(32), None)

    @classmethod
    def from_settings(cls, settings: Settings) -> ApiKeys:
        """Read ``BROKER_API_KEYS`` and the file ``BROKER_API_KEYS_FILE``.

        Raises:
            ConfigError: One of them cannot be used. The message says which entry and
                what is wrong, and repeats nothing of it.
        """
        entries: dict[bytes, Identity] = {}
        names: set[str] = set()
        for where, record in _records(settings):
            try:
                digest, identity = _read_record(record)
            except BadClaims as error:
                raise ConfigError(f"{where}: {error}") from None
            if digest in entries:
                raise ConfigError(f"{where}: the same key was listed before")
            if identity.token_id in names:
                raise ConfigError(f"{where}: another key has the same name")
            entries[digest] = identity
            if identity.token_id is not None:
                names.add(identity.token_id)
        return cls(entries)

    def identify(self, key: str) -> Identity:
        """Who has *key*.

        It takes the same time for every text of one length: all are hashed, looked up
        and compared, found or not. The look-up itself may tell how much of a digest
        was right, but who has to invert SHA-256 to choose a digest learns nothing by
        that.

        Raises:
            Unauthorized: There is no such key.
        """
        digest = _digest(key)
        entry = self._entries.get(digest, self._nobody)
        same = hmac.compare_digest(entry.digest, digest)
        if not same or entry.identity is None:
            raise unauthorized("unknown_key")
        return entry.identity


def _digest(key: str) -> bytes:
    # What cannot be encoded came from raw header bytes; no key has such characters.
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _records(settings: Settings) -> Iterator[tuple[str, object]]:
    """All records, each with where it stands."""
    found = False
    for setting, text in _sources(settings):
        try:
            records = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ConfigError(f"{setting}: is not JSON") from None
        if not isinstance(records, list):
            raise ConfigError(f"{setting}: must be a JSON array of objects")
        for number, record in enumerate(records, 1):
            found = True
            yield f"{setting}: entry {number}", record
    if not found:
        raise ConfigError(
            "BROKER_API_KEYS and BROKER_API_KEYS_FILE: there is no key in them, so "
            "nobody could connect"
        )


def _sources(settings: Settings) -> Iterator[tuple[str, str | bytes]]:
    if text := settings.api_keys.get_secret_value():
        yield "BROKER_API_KEYS", text
    if path := settings.api_keys_file:
        try:
            yield "BROKER_API_KEYS_FILE", Path(path).read_bytes()
        except OSError as error:
            why = error.strerror
            raise ConfigError(
                f"BROKER_API_KEYS_FILE={path}: cannot be read: {why}"
            ) from None


def _read_record(record: object) -> tuple[bytes, Identity]:
    if not isinstance(record, dict):
        raise BadClaims("is not an object")
    if not set(record).issubset((*_REQUIRED, *_OPTIONAL)):
        known = ", ".join((*_REQUIRED, *_OPTIONAL))
        raise BadClaims(f"has a field that is none of {known}")
    for field in _REQUIRED:
        if record.get(field) is None:
            raise BadClaims(f"has no {field}")
    text = record["hash"]
    match = _HASH.match(text) if isinstance(text, str) else None
    if match is None:
        raise BadClaims("hash must be sha256: and 64 hexadecimal digits in lower case")
    name = record.get("name")
    token_id = None if name is None else read_name("name", name)
    return bytes.fromhex(match[1]), read_identity(
        record["user"], record, token_id=token_id
    )
