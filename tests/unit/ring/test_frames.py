"""Frames straight from the ring: those of the records, up to what is no plain event."""

from __future__ import annotations

import os
import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.ring import layout, receiver
from broker.ring.layout import Kind
from broker.ring.receiver import NO_EVENT, Receiver
from broker.ring.records import pack_event, unpack_frame
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from tests.unit.ring.peer import LappedWhileReading, advance, damage, lap

FRAME = b'\x81\x0a{"id":"1"}'
MANY, LARGE = 1000, 10**9
EVENTS = st.lists(st.tuples(st.binary(max_size=99), st.binary(max_size=999)))
FIRST_WORD, FRAME_LENGTH = 0, layout.RECORD_BYTES + 4


def put(transmitter: Transmitter, ms: int, *, transient: bool = False) -> int:
    """A published event; its ring position."""
    payload = pack_event(FRAME, 2, b"key", transient)
    place = transmitter.append(Kind.EVENT, 7, ms, 1, ms + 1, 0, payload)
    transmitter.commit()
    return place


def put_other(transmitter: Transmitter, kind: Kind) -> int:
    """A published record that is no event."""
    place = transmitter.append(kind, 7, 9, 0, 0, 0, bytes(64))
    transmitter.commit()
    return place


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.integers(0, 100))
def test_they_are_those_of_the_records(
    events: list[tuple[bytes, bytes]], blocks: int
) -> None:
    """One after the other, wherever in the ring; but for one that turns round."""
    segment = Segment.create(layout.MIN_SIZE)
    transmitter, reader = Transmitter(segment), Receiver(segment)
    advance(transmitter, 64 * blocks)
    places = [
        transmitter.append(Kind.EVENT, 7, ms, 1, 2, 0, pack_event(frame, 2, key, False))
        for ms, (key, frame) in enumerate(events)
    ]
    transmitter.commit()
    frames: list[bytes] = []
    while len(frames) < len(places):
        found, last = reader.frames(places[len(frames) :], MANY, LARGE)
        frames += found
        assert last == ((len(frames) - 1, 1, 2) if found else NO_EVENT)
        rest = reader.read_all(places[len(frames) :])
        frames += [unpack_frame(it.payload) for it in rest if it][:1]

    assert frames == [frame for _key, frame in events]
    segment.close()
    os.close(segment.fd)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.EVENT])
def test_they_end_before_another_kind(segment: Segment, kind: Kind) -> None:
    """What else there is has to be told in its own way."""
    transmitter = Transmitter(segment)
    places = [put(transmitter, 1), put_other(transmitter, kind), put(transmitter, 2)]

    found = Receiver(segment).frames(places, MANY, LARGE)

    assert found == ([FRAME], (1, 1, 2))


def test_they_end_before_a_transient_event(segment: Segment) -> None:
    """It is delivered live only."""
    transmitter = Transmitter(segment)
    places = [put(transmitter, 1), put(transmitter, 2, transient=True)]

    assert Receiver(segment).frames(places, MANY, LARGE) == ([FRAME], (1, 1, 2))


def test_they_end_where_enough_was_read(segment: Segment) -> None:
    """By number, and by bytes: the frame that fills the page is still in it."""
    transmitter, reader = Transmitter(segment), Receiver(segment)
    places = [put(transmitter, ms) for ms in range(5)]

    assert reader.frames(places, 3, LARGE)[0] == [FRAME] * 3
    assert reader.frames(places, MANY, len(FRAME) + 1)[0] == [FRAME] * 2
    assert reader.frames(places, MANY, len(FRAME))[0] == [FRAME]


def test_what_is_gone_is_not_there(segment: Segment) -> None:
    """Another event begins in the same place: it is none of this channel."""
    transmitter, reader = Transmitter(segment), Receiver(segment)
    place = put(transmitter, 1)
    lap(transmitter)
    advance(transmitter, -place % layout.MIN_SIZE)
    again = put(transmitter, 2)

    assert (again - place) % layout.MIN_SIZE == 0
    assert reader.frames([again], MANY, LARGE) == ([FRAME], (2, 1, 3))
    assert reader.frames([place], MANY, LARGE) == ([], NO_EVENT)


def test_one_that_is_gone_casts_doubt_on_all(segment: Segment) -> None:
    """The oldest goes first: who looks at each by itself finds out which are left."""
    transmitter = Transmitter(segment)
    places = [put(transmitter, 1), put(transmitter, 2)]
    segment.words[layout.CLAIM] = places[1] + segment.size

    assert Receiver(segment).frames(places, MANY, LARGE) == ([], NO_EVENT)


@pytest.mark.parametrize(
    ("module", "name"), [(receiver, "FRAME_HEAD"), (layout, "RECORD")]
)
def test_what_is_overwritten_meanwhile_is_not_believed(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """Neither the frames nor what the last of them is."""
    place = put(Transmitter(segment), 1)
    monkeypatch.setattr(
        module, name, LappedWhileReading(getattr(module, name), segment)
    )

    assert Receiver(segment).frames([place], MANY, LARGE) == ([], NO_EVENT)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (FIRST_WORD, "=Q", 2**64 - 1),
        (FIRST_WORD, "=Q", 8 << 8 | Kind.EVENT),
        (FIRST_WORD, "=Q", layout.MIN_SIZE << 8 | Kind.EVENT),
        (FRAME_LENGTH, "=I", 2**32 - 1),
        (FRAME_LENGTH, "=I", 1000),
    ],
)
def test_garbage_is_not_read(
    segment: Segment, offset: int, form: str, value: int
) -> None:
    """Neither a kind nor a length is believed before it is one that can be."""
    transmitter = Transmitter(segment)
    place = put(transmitter, 1)
    damage(segment, place, offset, struct.pack(form, value))

    assert Receiver(segment).frames([place], MANY, LARGE) == ([], NO_EVENT)


def test_with_checksums_there_are_none(segment: Segment) -> None:
    """Where the order of stores is not trusted each record is checked as a whole."""
    transmitter = Transmitter(segment, checksums=True)
    place = put(transmitter, 1)

    assert Receiver(segment, checksums=True).frames([place], MANY, LARGE)[0] == []
