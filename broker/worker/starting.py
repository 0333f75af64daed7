"""Reads from where a client wants events: the same in a URL and in a command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from broker.entry import is_rfc3339
from broker.model import U64_MAX, Position, is_session_name, parse_position
from broker.worker.channels import Overflow, Start, StartAt

if TYPE_CHECKING:
    from broker.worker.seeking import Seek

DIGITS_MAX = 18

CONSUMER_CHARS_MAX = 64

OVERFLOWS = {overflow.name.lower(): overflow for overflow in Overflow}


class BadStart(ValueError):
    """A parameter cannot be used; the message says which and what is allowed."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How a client wants to read one session.

    Attributes:
        start: From where it wants events.
        overflow: What happens when its socket does not keep up.
        consumer: Under which name its position is committed, empty for none.
        auto_ack: Commit what was handed to its socket, without an ``ack``.
        presence: Tell it who comes and goes.
        takeover: Open the session again if it was evicted or closed.
        committed: What is stored of the consumer; known once it was asked for.
        seek: Finds the start where a client knows no position.
    """

    start: Start = Start()
    overflow: Overflow = Overflow.LAG
    consumer: str = ""
    auto_ack: bool = False
    presence: bool = False
    takeover: bool = False
    committed: Position | None = None
    seek: Seek | None = None


def read_reading(wanted: Mapping[str, object], max_entries: int) -> Reading:
    """Read everything that a URL or a ``subscribe`` may say about one session.

    Args:
        wanted: Parameters by name; absent and empty ones count as not given.
        max_entries: Largest N of ``last_event_id=-N``.

    Raises:
        BadStart: One of them cannot be read.
    """
    consumer = _read_consumer(wanted)
    ack = _text(wanted, "ack") or "manual"
    if ack not in ("manual", "auto"):
        raise BadStart("ack is manual or auto")
    if ack == "auto" and not consumer:
        raise BadStart("ack=auto needs a consumer")
    return Reading(
        start=read_start(wanted, max_entries),
        overflow=read_overflow(wanted),
        consumer=consumer,
        auto_ack=ack == "auto",
        presence=_read_flag(wanted, "presence"),
        takeover=_read_flag(wanted, "takeover"),
    )


def _read_consumer(wanted: Mapping[str, object]) -> str:
    name = _text(wanted, "consumer")
    if name and (len(name) > CONSUMER_CHARS_MAX or not is_session_name(name)):
        raise BadStart(
            "consumer is a letter or digit and up to 63 of A-Z a-z 0-9 . _ : @ -"
        )
    return name


def _read_flag(wanted: Mapping[str, object], name: str) -> bool:
    value = wanted.get(name)
    if value in (None, False, "", "0", "false"):
        return False
    if value in (True, "1", "true"):
        return True
    raise BadStart(f"{name} is 0 or 1")


def read_start(wanted: Mapping[str, object], max_entries: int) -> Start:
    """Read ``last_event_id`` or, without it, ``since``.

    Args:
        wanted: Parameters by name; absent and empty ones count as not given.
        max_entries: Largest N of ``last_event_id=-N``.

    Raises:
        BadStart: One of them cannot be read.
    """
    last = _text(wanted, "last_event_id")
    since = _text(wanted, "since")
    if last == "0":
        return Start(at=StartAt.RETAINED)
    if last.startswith("-"):
        return Start(at=StartAt.LAST_N, count=_read_count(last[1:], max_entries))
    if last:
        return Start(at=StartAt.POSITION, position=_read_position(last))
    if since:
        return Start(at=StartAt.SINCE, position=_read_since(since))
    return Start()


def read_overflow(wanted: Mapping[str, object]) -> Overflow:
    """Read ``overflow``.

    Raises:
        BadStart: It is none of the four.
    """
    name = _text(wanted, "overflow") or "lag"
    if name not in OVERFLOWS:
        raise BadStart(f"overflow is one of {', '.join(OVERFLOWS)}")
    return OVERFLOWS[name]


def _text(wanted: Mapping[str, object], name: str) -> str:
    value = wanted.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadStart(f"{name} is text")
    return value


def _read_count(digits: str, max_entries: int) -> int:
    count = read_number(digits)
    if not 0 < count <= max_entries:
        raise BadStart(f"last_event_id=-N takes an N from 1 to {max_entries}")
    return count


def read_number(digits: str) -> int:
    """A plain decimal number of at most 18 digits; 0 if it is anything else."""
    plain = digits.isascii() and digits.isdigit() and len(digits) <= DIGITS_MAX
    return int(digits) if plain else 0


def _read_position(text: str) -> Position:
    try:
        return parse_position(text)
    except ValueError as error:
        raise BadStart(
            f"last_event_id is 0, -N, <ms>-<n> or <ms>-<n>@<seq>: {error}"
        ) from None


def _read_since(text: str) -> Position:
    wrong = "since is a time such as 2025-11-21T04:26:40Z"
    if not is_rfc3339(text.encode()):
        raise BadStart(wrong)
    try:
        moment = datetime.fromisoformat(text.replace("z", "Z"))
        milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e3
    except (ValueError, OverflowError):
        raise BadStart(wrong) from None
    # Everything before that millisecond was not asked for.
    return Position((max(0, int(milliseconds) - 1), U64_MAX if milliseconds > 0 else 0))
