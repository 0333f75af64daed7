"""What holds for every wire format, since the fan-out calls them without a net."""

from __future__ import annotations

import sys

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import Event, read_entry
from broker.protocols import native
from broker.protocols.council import COUNCIL
from broker.protocols.formats import NATIVE, SSE, Format, event_payload
from broker.protocols.openhands import v0
from broker.protocols.openhands.v1_formats import EVENTS, SESSION
from broker.ring.records import unpack_event

FORMATS = (NATIVE, SSE, v0.JOINING, v0.LIVE, EVENTS, SESSION, COUNCIL)
MS, N, SEQ = 1_763_699_200_000, 2, 3
IDS = ("native", "sse", "v0-joining", "v0", "v1", "v1-session", "council")
EACH = pytest.mark.parametrize("wire", FORMATS, ids=IDS)


def deepest(data: str) -> Event:
    """The deepest nesting around *data* that the reader takes."""
    for depth in range(sys.getrecursionlimit(), 0, -1):
        text = '{"a":' * depth + data + "}" * depth
        entry = read_entry([b"event", b"oh_event", b"data", text.encode()], 1 << 20)
        if isinstance(entry, Event):
            return entry
    raise AssertionError("the reader takes nothing")


def below(frames: int, wire: Format, payload: bytes) -> bytes:
    """What a format makes of a record when so much is on the stack already."""
    if frames:
        return below(frames - 1, wire, payload)
    return wire.recorded(MS, N, SEQ, payload)


@EACH
def test_what_the_reader_could_read_ends_no_worker(wire: Format) -> None:
    """An exception in the fan-out would end the process, and the next one's too."""
    entry = deepest("1")
    payload = event_payload(b"s1", MS, N, SEQ, entry)

    assert below(50, wire, payload)
    assert wire.event(b"s1", MS, N, SEQ, entry)


names = st.text(min_size=1, max_size=20).filter(lambda text: "\ud800" not in text)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
tricky = st.sampled_from(
    ['","event":"oh_event","data":', ',"timestamp":"', '"session":"', '\\",\\"', "}"]
)


@given(
    name=names | tricky,
    node_id=st.text(max_size=9) | tricky,
    data=values | st.dictionaries(tricky, tricky),
)
def test_an_event_is_cut_up_as_it_was_put_together(
    name: str, node_id: str, data: object
) -> None:
    """Whatever stands in names and values is not taken for what is around them."""
    json = orjson.dumps(data)
    event = Event(name.encode(), json, b"", node_id.encode(), b"", False)
    record = unpack_event(event_payload(b"s:1", MS, N, SEQ, event))
    told = native.split_event(record.frame, record.header_bytes)

    assert told == (
        b"s:1",
        orjson.dumps(name),
        json,
        orjson.dumps(node_id) if node_id else b"",
    )
