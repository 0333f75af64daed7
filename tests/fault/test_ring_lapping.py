"""The ring's two proofs: reading at the lapping edge, and cursors of the past."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.errors import RingCorrupted
from broker.ring import layout
from broker.ring.layout import Kind
from broker.ring.receiver import Lapped, NewGeneration, Receiver, Record
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from tests.fault.ring_writer import payload_at

ROOT = Path(__file__).parents[2]
SECONDS = 3.0
CHANNELS = range(2**32)
RUNS = 300


class HeadForClaim:
    """The header words for a reader that trusts the head instead of the claim."""

    def __init__(self, words: Any) -> None:
        self._words = words

    def __getitem__(self, word: int) -> int:
        value: int = self._words[layout.HEAD if word == layout.CLAIM else word]
        return value


class CarelessReceiver(Receiver):
    """Checks what a ring with a single published pointer could check."""

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment)
        careless = Segment(segment.fd)
        careless.words = HeadForClaim(careless.words)  # type: ignore[assignment]
        self._segment = careless


class EdgeReader:
    """Reads records again and again at the very moment they are overwritten.

    Attributes:
        accepted: Records that were handed on.
        corrupt: Those of them that are not what was written there.
        garbage: Reads that ended with an error although the ring is in order.
        laps: Records that were refused as overwritten.
    """

    def __init__(self, segment: Segment, tested: Receiver) -> None:
        self._segment = segment
        self._tested = tested
        self._finder = Receiver(segment)
        self._known: deque[int] = deque()
        self.accepted = self.corrupt = self.garbage = self.laps = 0

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._find()
            self._drop_overwritten()
            for position in list(self._known)[:6]:
                self._read(position)
                self._receive(position)

    def _find(self) -> None:
        """Learn where records begin, as long as that is safe."""
        finder = self._finder
        try:
            for record in finder.records(finder.receive(65536), CHANNELS):
                self._known.append(record.position)
        except (Lapped, NewGeneration):
            self._known.clear()

    def _drop_overwritten(self) -> None:
        edge = self._segment.head() - self._segment.size
        while self._known and self._known[0] < edge:
            self._known.popleft()

    def _read(self, position: int) -> None:
        try:
            record = self._tested.read(position)
        except RingCorrupted:
            self.garbage += 1
        else:
            self._judge(record)

    def _receive(self, position: int) -> None:
        tested = self._tested
        tested.generation = self._segment.words[layout.GENERATION]
        tested.cursor = position
        try:
            self._judge(next(tested.records(tested.receive(4096), CHANNELS)))
        except RingCorrupted:
            self.garbage += 1
        except Lapped:
            self._judge(None)

    def _judge(self, record: Record | None) -> None:
        if record is None:
            self.laps += 1
            return
        self.accepted += 1
        words = len(record.payload) // 8
        whole = record.payload == payload_at(record.position, words)
        true = (record.ms, record.n) == (record.position, words)
        self.corrupt += not (whole and true)


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(layout.MIN_SIZE)
    yield made
    made.close()
    os.close(made.fd)


@contextmanager
def writer(segment: Segment) -> Iterator[None]:
    """A process that laps the ring some hundred times a second."""
    command = [sys.executable, "-m", "tests.fault.ring_writer", str(segment.fd)]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[segment.fd]) as process:
        try:
            while not segment.head():
                assert process.poll() is None
                time.sleep(0.01)
            yield
        finally:
            process.kill()


def test_nothing_corrupt_is_accepted_at_the_lapping_edge(segment: Segment) -> None:
    """A copy that was being overwritten is never handed on, at any speed."""
    edge = EdgeReader(segment, Receiver(segment))
    with writer(segment):
        edge.run(SECONDS)

    assert edge.laps > 0
    assert edge.accepted > 1000
    assert (edge.corrupt, edge.garbage) == (0, 0)


def test_reader_that_checks_the_head_accepts_corrupt_records(segment: Segment) -> None:
    """The test above can fail: without the claim it would."""
    edge = EdgeReader(segment, CarelessReceiver(segment))
    with writer(segment):
        edge.run(SECONDS / 2)

    assert edge.accepted > 1000
    assert edge.corrupt > 0


class Former:
    """One generation: a transmitter, what it wrote, and how it ended."""

    def __init__(self, segment: Segment, chance: random.Random) -> None:
        self._segment = segment
        transmitter = Transmitter(segment)
        self.generation = transmitter.generation
        written = []
        self.cursors = {transmitter.tail}
        for _ in range(chance.choice([0, 1, 10, 200])):
            words = chance.choice([1, 30, 1000])
            payload = payload_at(transmitter.tail, words)
            at = transmitter.append(Kind.EVENT, 1, 1, 1, 1, 0, payload)
            written.append(at)
            if chance.random() < 0.5:
                transmitter.commit()
                self.cursors.add(transmitter.tail)
        # The others were never published, so nobody can know them.
        self.links = [at for at in written if at < transmitter.published]
        if chance.random() < 0.5:
            self._die_while_writing(chance)

    def _die_while_writing(self, chance: random.Random) -> None:
        """It has claimed some bytes and written a part of them."""
        claim = self._segment.claim() + chance.randint(1, 20_000)
        self._segment.words[layout.CLAIM] = claim
        at = claim % self._segment.size // 2
        self._segment.data[at : at + 100] = chance.randbytes(100)


def test_cursors_and_links_of_former_generations_are_refused(segment: Segment) -> None:
    """The same memory again: no position of the past means anything in it."""
    chance = random.Random(22)
    asked = 0
    for _ in range(RUNS):
        former = Former(segment, chance)
        receiver = Receiver(segment)
        Former(segment, chance)
        for link in [*former.links, *former.cursors]:
            assert receiver.read(link) is None
            assert list(receiver.chain(link)) == []
        for cursor in former.cursors:
            assert is_refused(segment, cursor, former.generation, NewGeneration)
            # The generation word is for humans: the lap check alone is enough.
            now = segment.words[layout.GENERATION]
            assert is_refused(segment, cursor, now, Lapped)
        asked += len(former.links) + len(former.cursors)

    assert asked > RUNS


def is_refused(
    segment: Segment, cursor: int, generation: int, how: type[Exception]
) -> bool:
    """Whether a reader that stands at *cursor* is told so in the way of *how*."""
    receiver = Receiver(segment)
    receiver.cursor, receiver.generation = cursor, generation
    with pytest.raises(how):
        receiver.receive(4096)
    return True
