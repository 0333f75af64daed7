"""A ring of the smallest size, empty for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.ring import layout
from broker.ring.segment import Segment


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(layout.MIN_SIZE)
    yield made
    made.close()
    os.close(made.fd)
