"""Reads of the past for OpenHands: what bounds them, and what they remember."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from broker.errors import StoreUnavailable
from broker.model import FIRST_ID, StreamId
from broker.protocols.openhands.rest import EVERYTHING, EventFilter, Search
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry
from broker.worker.edges import openhands_past
from broker.worker.edges.openhands_past import Past
from broker.worker.handshake import Refusal

EVENT_BYTES = 9_000
"""About what one event takes in these tests."""


class FakeArchive:
    """A stream in memory, and how often it was read.

    Attributes:
        entries: What it holds.
        added: How many entries it ever had.
        reads: Of entries.
        up: Whether it is connected.
        waits: How often somebody waited for that.
        away: Whether it cannot be read.
        gate: Reads wait until it is set.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.added = 0
        self.reads = 0
        self.up = True
        self.away = False
        self.waits = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def wait_up(self) -> None:
        self.waits += 1
        await asyncio.sleep(0)

    def add(
        self, count: int = 1, kind: str = "MessageEvent", pad: int = EVENT_BYTES
    ) -> None:
        for _ in range(count):
            self.added += 1
            event = {"id": f"e{self.added}", "kind": kind, "pad": "x" * pad}
            fields = [b"event", b"oh_event", b"data", orjson.dumps(event)]
            self.entries.append(((1, self.added), fields))

    def trim(self, count: int) -> None:
        del self.entries[:count]

    async def info(self, session: str) -> StreamInfo | None:
        if not self.added:
            return None
        first = self.entries[0][0] if self.entries else FIRST_ID
        last = (1, self.added)
        return StreamInfo(self.added, len(self.entries), last, first, FIRST_ID)

    async def history(
        self,
        session: str,
        after: StreamId | None,
        before: StreamId | None,
        limit: int,
        reverse: bool,
    ) -> list[Entry]:
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")
        self.reads += 1
        found = [
            entry
            for entry in self.entries
            if (after is None or entry[0] > after)
            and (before is None or entry[0] < before)
        ]
        return found[::-1][:limit] if reverse else found[:limit]


@pytest.fixture
def archive() -> FakeArchive:
    """An empty one."""
    return FakeArchive()


@pytest.fixture
def past(archive: FakeArchive) -> Past:
    """Reads from it."""
    return Past(cast("Any", archive), cast("Any", None), 1_000_000)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request may read a little more than 100 events."""
    monkeypatch.setattr(openhands_past, "READ_BYTES_MAX", 100 * EVENT_BYTES)


def ids(items: list[bytes]) -> list[str]:
    return [orjson.loads(item)["id"] for item in items]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("reverse", [False, True])
async def test_a_page_ends_where_enough_was_read(
    archive: FakeArchive, past: Past, reverse: bool
):
    """Although it is empty, it says where to go on, and nothing is left out."""
    archive.add(249, "ActionEvent")
    archive.add()
    archive.add(249, "ActionEvent")
    messages = EventFilter(kind="MessageEvent")
    found: list[bytes] = []
    start, steps = None, 0
    while steps == 0 or start is not None:
        search = Search(messages, reverse=reverse, start=start)
        page = await past.search("s", search)
        found += page.items
        start, steps = page.following, steps + 1

    assert ids(found) == ["e250"]
    assert steps > 2


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("reverse", "numbers"), [(False, range(1, 251)), (True, range(250, 0, -1))]
)
async def test_where_a_page_ends_early_the_next_one_goes_on(
    archive: FakeArchive, past: Past, reverse: bool, numbers: range
):
    """No event is left out, none comes twice."""
    archive.add(250)
    found: list[bytes] = []
    start, steps = None, 0
    while steps == 0 or start is not None:
        # More than what one request may read.
        page = await past.search("s", Search(limit=200, reverse=reverse, start=start))
        found += page.items
        start, steps = page.following, steps + 1

    assert ids(found) == [f"e{number}" for number in numbers]
    assert steps > 2


@pytest.mark.usefixtures("_small")
async def test_a_long_count_goes_on_when_it_is_asked_for_again(
    archive: FakeArchive, past: Past
):
    """Each request does its part, and the number is exact or none."""
    archive.add(400)
    refusals = 0
    number = None
    while number is None:
        try:
            number = await past.count("s", EVERYTHING)
        except Refusal as refusal:
            refusals += refusal.temporary

    assert number == 400
    assert 2 <= refusals < 10


async def test_a_count_reads_only_what_is_new(archive: FakeArchive, past: Past):
    """Nothing at all where nothing is; a browser asks with each tab."""
    archive.add(400)
    await past.count("s", EVERYTHING)
    before = archive.reads
    archive.add()
    number = await past.count("s", EVERYTHING)

    assert number == 401
    assert archive.reads - before == 1


async def test_counts_with_other_filters_are_other_counts(
    archive: FakeArchive, past: Past
):
    """None is taken for another one."""
    archive.add(3)
    archive.add(2, "ActionEvent")
    counts = [
        await past.count("s", EventFilter(kind=kind))
        for kind in ("", "ActionEvent", "MessageEvent", "")
    ]

    assert counts == [5, 2, 3, 5]


async def test_a_trimmed_stream_is_counted_anew(archive: FakeArchive, past: Past):
    """Nobody knows how many of what is gone were events."""
    archive.add(30)
    await past.count("s", EVERYTHING)
    archive.trim(7)
    first = await past.count("s", EVERYTHING)
    archive.trim(23)
    empty = await past.count("s", EVERYTHING)
    archive.add(2)

    assert (first, empty, await past.count("s", EVERYTHING)) == (23, 0, 2)


async def test_a_stream_that_begins_anew_is_counted_anew(
    archive: FakeArchive, past: Past
):
    """Although it begins with the same entry and has lost none."""
    archive.add(9)
    before = await past.count("s", EVERYTHING)
    archive.trim(9)
    archive.added = 0
    archive.add(4)

    assert (before, await past.count("s", EVERYTHING)) == (9, 4)


async def test_only_some_counts_are_remembered(
    archive: FakeArchive, past: Past, monkeypatch: pytest.MonkeyPatch
):
    """The one that nobody asked for longest is forgotten first."""
    monkeypatch.setattr(openhands_past, "COUNTS_MAX", 2)
    archive.add(400)
    for session in ("a", "b", "a", "c"):
        await past.count(session, EVERYTHING)
    before = archive.reads
    await past.count("a", EVERYTHING)
    kept = archive.reads - before
    await past.count("b", EVERYTHING)
    forgotten = archive.reads - before - kept

    assert kept == 1  # That there is nothing new
    assert forgotten > 2


@pytest.mark.usefixtures("_small")
async def test_an_event_is_looked_for_in_the_newest_part(
    archive: FakeArchive, past: Past
):
    """What is older is not found, however long the stream is."""
    archive.add(400)
    found = await past.find("s", ["e1", "e399"])

    assert list(found) == ["e399"]
    assert archive.reads < 20


async def test_of_two_events_with_an_id_the_newer_one_is_found(
    archive: FakeArchive, past: Past
):
    """As a service may have published it again."""
    archive.add(2)
    archive.added = 0
    archive.add(pad=5)
    found = await past.find("s", ["e1"])

    assert len(orjson.loads(found["e1"])["pad"]) == 5


async def test_too_much_for_one_answer_is_refused(archive: FakeArchive, past: Past):
    """Rather than that a part of it is said to be missing."""
    archive.add(6, pad=900_000)
    with pytest.raises(Refusal) as refused:
        await past.find("s", ["e1", "e2", "e3", "e4", "e5", "e6"])

    assert refused.value.status == 413


async def test_one_event_is_an_answer_however_large(
    archive: FakeArchive, past: Past, monkeypatch: pytest.MonkeyPatch
):
    """A page has one at least, or nobody would ever get past it."""
    monkeypatch.setattr(openhands_past, "ANSWER_BYTES_MAX", 10)
    archive.add(2)
    page = await past.search("s", Search())

    assert ids(page.items) == ["e1"]
    assert page.following == (1, 2)
    assert ids(list((await past.find("s", ["e1"])).values())) == ["e1"]


async def test_too_many_reads_at_once_are_refused(
    archive: FakeArchive, past: Past, monkeypatch: pytest.MonkeyPatch
):
    """They would only wait for each other; those that wait are served."""
    monkeypatch.setattr(openhands_past, "WAITING_MAX", 20)
    archive.add(3)
    archive.gate.clear()
    tasks = [asyncio.create_task(past.search("s", Search())) for _ in range(21)]
    (refused,), _ = await asyncio.wait(
        tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED
    )
    archive.gate.set()
    await asyncio.wait(tasks)
    again = await past.search("s", Search())

    assert isinstance(refused.exception(), Refusal)
    assert sum(task.exception() is None for task in tasks) == 20
    assert len(again.items) == 3


async def test_a_store_that_stays_away_is_told_at_once(
    archive: FakeArchive, past: Past
):
    """Also to those who wait for each other: none waits for the patience of another."""
    archive.up, archive.away = False, True
    counts = [past.count("s", EVERYTHING) for _ in range(3)]
    results = await asyncio.gather(*counts, return_exceptions=True)
    assert [type(result) for result in results] == [Refusal] * 3
    assert archive.waits == 3


async def test_a_store_that_is_away_is_a_refusal(archive: FakeArchive, past: Past):
    """And the next read is not hindered by it."""
    archive.add(3)
    archive.away = True
    for read in (
        past.search("s", Search()),
        past.count("s", EVERYTHING),
        past.find("s", ["e1"]),
    ):
        with pytest.raises(Refusal) as refused:
            await read
        assert refused.value.temporary
    archive.away = False

    assert await past.count("s", EVERYTHING) == 3
