"""Blocks of an event stream, read back as a browser reads them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.sse import HEARTBEAT, data_block, retry_block
from tests.unit.protocols.event_source import read_stream

JSON_TEXTS = st.dictionaries(st.text(), st.text() | st.integers(), min_size=1).map(
    lambda value: json.dumps(value, ensure_ascii=False, indent=1)
)


def test_block_with_a_position():
    """The position is the block's id, so the browser resumes from it."""
    assert data_block(b'{"a":1}', b"5-0@3") == b'id: 5-0@3\ndata: {"a":1}\n\n'


def test_block_without_a_position():
    """A block without id leaves the browser's last id alone."""
    assert data_block(b"1") == b"data: 1\n\n"


def test_line_ends_in_json_become_spaces():
    """White space between JSON tokens cannot cut a block in two."""
    assert data_block(b'{\r\n"a":\n\r1}') == b'data: {  "a":  1}\n\n'


@given(st.lists(st.tuples(JSON_TEXTS, st.sampled_from([b"", b"1-0", b"2-0@7"]))))
def test_stream_decodes_to_what_was_encoded(blocks):
    """Every block is one message with its data, id only where one was given."""
    stream = b"".join(data_block(text.encode(), at) for text, at in blocks)

    assert [(json.loads(data), at) for data, at in read_stream(stream)] == [
        (json.loads(text), at.decode()) for text, at in blocks
    ]


def test_heartbeat_and_retry_are_no_messages():
    """Keeping the connection and setting the delay fire no event in the browser."""
    assert retry_block(1500) == b"retry: 1500\n\n"
    assert read_stream(HEARTBEAT + retry_block(1500)) == []
