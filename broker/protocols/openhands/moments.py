"""Times as OpenHands writes them: ISO 8601, mostly without a zone."""

from __future__ import annotations

from datetime import UTC, datetime


def read_moment(text: str) -> datetime | None:
    """A time of ISO 8601 as naive UTC, None if it is none.

    One without a zone is taken as it is: so events have theirs.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return moment
