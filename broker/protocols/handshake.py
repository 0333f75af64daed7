"""The opening handshake of WebSocket (RFC 6455 section 4.2), judged by the server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

_KEY_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SUBPROTOCOL: Final = "broker.v1"
_BEARER: Final = "bearer."


class UpgradeRefusal(msgspec.Struct, frozen=True):
    """Why a request does not become a WebSocket.

    Attributes:
        status: The HTTP status of the answer.
        message: For a person; repeats nothing of the request.
        headers: What the answer must carry besides.
    """

    status: int
    message: str
    headers: dict[str, str]


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key`` (section 4.2.2)."""
    # SHA-1 is what the RFC asks for; nothing secret hangs on it.
    digest = hashlib.sha1(key.encode("ascii") + _KEY_SUFFIX, usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode()


def check_upgrade(
    headers: Mapping[str, str], method: str, http_version: tuple[int, int]
) -> str | UpgradeRefusal:
    """Judge an opening handshake (section 4.2.1).

    *headers* is a multidict, or any mapping of names in any case; *method* is in
    capitals; *http_version* is major and minor.

    Returns:
        The value of ``Sec-WebSocket-Accept``, or why the request is refused.
    """
    if method != "GET" or tuple(http_version) < (1, 1):
        return UpgradeRefusal(400, "a WebSocket starts with GET of HTTP/1.1", {})
    if "websocket" not in _tokens(_values(headers, "upgrade")):
        return _upgrade_required("this address speaks WebSocket")
    if "upgrade" not in _tokens(_values(headers, "connection")):
        return UpgradeRefusal(400, "the header Connection does not say upgrade", {})
    if _values(headers, "sec-websocket-version") != ["13"]:
        return _upgrade_required("Sec-WebSocket-Version must be 13")
    keys = _values(headers, "sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return UpgradeRefusal(400, "Sec-WebSocket-Key must be 16 bytes in base64", {})
    return accept_key(keys[0])


def choose_subprotocol(
    offered_header_values: list[str],
) -> tuple[str | None, str | None]:
    """Choose from every ``Sec-WebSocket-Protocol`` of a request; never log them.

    Returns:
        ``broker.v1`` if the client offers it, and the token of its first
        ``bearer.<token>``; None for what is not there.
    """
    if not offered_header_values:
        return None, None
    offered = [
        name.strip() for value in offered_header_values for name in value.split(",")
    ]
    tokens = (name[len(_BEARER) :] for name in offered if name.startswith(_BEARER))
    token = next((token for token in tokens if token), None)
    return _SUBPROTOCOL if _SUBPROTOCOL in offered else None, token


def _upgrade_required(message: str) -> UpgradeRefusal:
    # 426 must name what to upgrade to (RFC 9110 15.5.22), and 4.4 the version.
    return UpgradeRefusal(
        426,
        message,
        {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
        },
    )


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    # items() of a multidict also has the second and later headers of one name.
    return [value.strip() for key, value in headers.items() if key.lower() == name]


def _tokens(values: Iterable[str]) -> set[str]:
    return {token.strip().lower() for value in values for token in value.split(",")}


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
