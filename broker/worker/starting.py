"""Reads from where a client wants events: the same in a URL and in a command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from broker.entry import is_rfc3339
from broker.model import U64_MAX, Position, parse_position
from broker.worker.channels import Overflow, Start, StartAt

DIGITS_MAX = 18

OVERFLOWS = {overflow.name.lower(): overflow for overflow in Overflow}


class BadStart(ValueError):
    """A parameter cannot be used; the message says which and what is allowed."""


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
