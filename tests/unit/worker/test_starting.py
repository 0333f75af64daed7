"""From where a client wants events."""

from __future__ import annotations

import pytest

from broker.model import U64_MAX, Position
from broker.worker.channels import Overflow, Start, StartAt
from broker.worker.starting import BadStart, read_overflow, read_start

MAX = 10


@pytest.mark.parametrize(
    ("wanted", "start"),
    [
        ({}, Start()),
        ({"last_event_id": "", "since": ""}, Start()),
        ({"last_event_id": "0"}, Start(at=StartAt.RETAINED)),
        ({"last_event_id": "-10"}, Start(at=StartAt.LAST_N, count=10)),
        (
            {"last_event_id": "5-1"},
            Start(at=StartAt.POSITION, position=Position((5, 1))),
        ),
        (
            {"last_event_id": "5-1@9", "since": "2025-11-21T04:26:40Z"},
            Start(at=StartAt.POSITION, position=Position((5, 1), 9)),
        ),
        (
            {"since": "1970-01-01T00:00:01Z"},
            Start(at=StartAt.SINCE, position=Position((999, U64_MAX))),
        ),
        (
            {"since": "1970-01-01T01:00:00.5+01:00"},
            Start(at=StartAt.SINCE, position=Position((499, U64_MAX))),
        ),
        (
            {"since": "1960-01-01T00:00:00Z"},
            Start(at=StartAt.SINCE, position=Position((0, 0))),
        ),
    ],
)
def test_starts_are_read(wanted: dict[str, object], start: Start) -> None:
    """Every form that the contract names; a position beats a time."""
    assert read_start(wanted, MAX) == start


@pytest.mark.parametrize(
    "wanted",
    [
        {"last_event_id": "-0"},
        {"last_event_id": "-11"},
        {"last_event_id": "-x"},
        {"last_event_id": "--1"},
        {"last_event_id": "5"},
        {"last_event_id": "5-1@"},
        {"last_event_id": f"{U64_MAX + 1}-0"},
        {"last_event_id": 5},
        {"last_event_id": "\u0665-1"},
        {"last_event_id": "-\u0665"},
        {"since": "yesterday"},
        {"since": "2025-11-21"},
        {"since": "2025-02-30T00:00:00Z"},
        {"since": "2025-11-21T04:26:60Z"},
        {"since": 5},
    ],
)
def test_anything_else_is_refused(wanted: dict[str, object]) -> None:
    """The client is told what is allowed instead of getting a guess."""
    with pytest.raises(BadStart):
        read_start(wanted, MAX)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_overflow_is_read(overflow: Overflow) -> None:
    """The four words, and lag where none is given."""
    assert read_overflow({"overflow": overflow.name.lower()}) is overflow
    assert read_overflow({}) is Overflow.LAG


@pytest.mark.parametrize("word", ["LAG", "queue", 1])
def test_other_overflows_are_refused(word: object) -> None:
    """A typo must not silently mean something else."""
    with pytest.raises(BadStart):
        read_overflow({"overflow": word})
