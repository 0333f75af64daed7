"""What was received and not yet taken: in order, once, in bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import orjson
from hypothesis import given
from hypothesis import strategies as st

from broker.client.inbox import BYTES_MAX, FRAMES_MAX, Inbox
from broker.client.wire import Frame, Place, read_frame
from tests.unit.client.script import about, event, gap, subscribed

CAUGHT_UP = about("caught_up", position="9-0@9", replayed=0)


def frame(content: dict[str, Any]) -> Frame:
    return read_frame(orjson.dumps(content))


def put(inbox: Inbox, *contents: dict[str, Any]) -> None:
    for content in contents:
        assert inbox.put(frame(content), 10) is None


def taken(inbox: Inbox) -> list[str]:
    """Everything that is there, by id or name."""
    frames = [inbox.take() for _ in range(len(inbox))]
    return [frame.id or frame.event for frame in frames]


def test_entries_come_out_as_they_came():
    """First in, first out, with what the broker says between them."""
    inbox = Inbox()
    put(inbox, subscribed(), event("1-0"), CAUGHT_UP, event("2-0"), event("2-1"))

    assert taken(inbox) == ["subscribed", "1-0", "caught_up", "2-0", "2-1"]


def test_entry_that_came_before_is_dropped():
    """Ids are compared as numbers, with and without ordinal."""
    inbox = Inbox()
    put(inbox, event("9-0@1"), event("10-0"), event("9-0"), event("10-0@2"))

    assert taken(inbox) == ["9-0@1", "10-0"]


def test_ids_begin_anew_after_a_reset():
    """The new history may repeat smaller ones."""
    inbox = Inbox()
    put(inbox, event("9-0"), about("reset", **{"from": "0-0@0"}), event("1-1"))

    assert taken(inbox) == ["9-0", "reset", "1-1"]


def test_gap_waits_until_the_place_has_moved_past_it():
    """By an entry, by the end of the replay, or by a new history."""
    gone = gap("1-0", "5-0", 3)
    reset = about("reset", **{"from": "0-0@0"})
    inbox = Inbox()
    put(inbox, event("1-0"), gone)
    before = len(inbox)
    put(inbox, event("5-0"), gone, CAUGHT_UP, gone, about("left"), reset)

    assert before == 1
    assert taken(inbox) == [
        *("1-0", "gap", "5-0", "gap", "caught_up", "left", "gap", "reset")
    ]


def test_gap_of_a_connection_that_ended_is_forgotten():
    """The next one begins before it and tells it again."""
    inbox = Inbox()
    put(inbox, event("1-0"), gap("1-0", "5-0", 3))
    inbox.cut()
    put(inbox, subscribed("gap"), gap("1-0", "6-0", 4), event("6-0"))

    assert taken(inbox) == ["1-0", "subscribed", "gap", "6-0"]


async def waits(inbox: Inbox, number: int, size: int) -> asyncio.Task[object]:
    """Put one more, which is one too many."""
    wait = inbox.put(frame(event(f"{number}-0")), size)
    assert wait is not None
    task = asyncio.ensure_future(wait)
    await asyncio.sleep(0)
    return task


async def test_who_puts_too_many_waits_until_half_is_taken():
    """The reader then reads nothing from its socket."""
    inbox = Inbox()
    put(inbox, *(event(f"{number}-0") for number in range(1, FRAMES_MAX)))
    full = await waits(inbox, FRAMES_MAX, 10)
    for _ in range(FRAMES_MAX // 2 - 1):
        inbox.take()
    await asyncio.sleep(0)
    still = not full.done()
    inbox.take()
    await full

    assert still


async def test_who_puts_too_much_waits_as_well():
    """Few large frames are as bad as many small ones."""
    inbox = Inbox()
    put(inbox, event("1-0"))
    full = await waits(inbox, 2, BYTES_MAX)
    inbox.take()
    await asyncio.sleep(0)
    still = not full.done()
    inbox.take()
    await full

    assert still


async def test_waiting_ends_with_a_frame_or_the_end():
    """And goes on waiting when all was taken."""
    inbox = Inbox()
    put(inbox, event("1-0"))
    await inbox.wait()
    inbox.take()
    waiting = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    still = not waiting.done()
    inbox.end()
    await waiting
    await inbox.wait()

    assert still


async def test_closed_inbox_is_empty_and_stays_so():
    """Nobody wants what was there, nor what comes, and nobody waits for room."""
    inbox = Inbox()
    full = await waits(inbox, 1, BYTES_MAX)
    inbox.close()
    await full
    put(inbox, event("2-0"))
    await inbox.wait()

    assert len(inbox) == 0


class Server:
    """The stream of a session, some of whose entries are gone.

    Attributes:
        gone: The numbers of the entries that were trimmed.
        length: How many there ever were.
    """

    def __init__(self, length: int, gone: set[int]) -> None:
        self.length = length
        self.gone = gone

    def replay(self, position: str) -> list[dict[str, Any]]:
        """What a connection gets that resumes behind *position*."""
        last = int(position.partition("-")[0])
        frames = [subscribed(start=position)]
        lost = 0
        for number in range(last + 1, self.length + 1):
            if number in self.gone:
                lost += 1
                continue
            if lost:
                frames.append(gap(f"{number - lost - 1}-0", f"{number}-0", lost))
                lost = 0
            frames.append(event(f"{number}-0@{number}"))
        if lost:
            after = self.length - lost
            frames.append(gap(f"{after}-0", f"{self.length}-0", lost))
        end = f"{self.length}-0@{self.length}"
        return [*frames, about("caught_up", position=end, replayed=0)]


@given(
    length=st.integers(0, 30),
    gone=st.sets(st.integers(1, 30)),
    cuts=st.lists(st.integers(0, 12), max_size=12),
)
def test_each_entry_comes_once_or_is_lost_once(
    length: int, gone: set[int], cuts: list[int]
):
    """However many connections it takes, and wherever they are cut."""
    server = Server(length, {number for number in gone if number <= length})
    inbox, place = Inbox(), Place("0-0@0")
    for cut in [*cuts, None]:
        assert place.position is not None
        for content in server.replay(place.position)[:cut]:
            place.note(frame(content))
            inbox.put(frame(content), 10)
        inbox.cut()
    frames = [inbox.take() for _ in range(len(inbox))]
    seqs = [f.seq for f in frames if f.id is not None]
    lost = [f for f in frames if f.event == "gap"]

    assert seqs == [n for n in range(1, length + 1) if n not in server.gone]
    assert sum(msgspec.json.decode(f.data)["lost"] for f in lost) == len(server.gone)
