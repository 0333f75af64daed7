"""``python -m tests.fault.ring_writer FD``: fills a ring as fast as it can.

It ends with the process that started it.

Every record says where it is: its payload is its ring position, over and over, so a
reader can tell its bytes from those of any other record.
"""

from __future__ import annotations

import os
import random
import sys

from broker.ring.layout import Kind
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter

WORDS_MAX = 250


def payload_at(position: int, words: int) -> bytes:
    """What the record at *position* says if its payload is *words* words long."""
    return position.to_bytes(8, "little") * words


def write_while_wanted(segment: Segment) -> None:
    chance = random.Random(1)
    sizes = [chance.randint(1, WORDS_MAX) for _ in range(1000)]
    transmitter = Transmitter(segment)
    parent = os.getppid()
    while os.getppid() == parent:
        for words in sizes:
            at = transmitter.tail
            transmitter.append(
                Kind.EVENT, 1, at, words, 0, 0, at.to_bytes(8, "little") * words
            )


if __name__ == "__main__":
    write_while_wanted(Segment(int(sys.argv[1])))
