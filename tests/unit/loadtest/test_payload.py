from __future__ import annotations

import orjson

from loadtest import payload
from loadtest.payload import MARKER


def test_event_data_is_json_of_200_bytes_at_any_time_and_ordinal() -> None:
    """Every event has the same size, the first as well as a very late one."""
    first = payload.event_data(0, 0)
    late = payload.event_data(10**17, 10**10)

    assert len(first) == len(late) == payload.DATA_BYTES
    assert orjson.loads(late)["q"] == 10**10 + payload.ORDINAL_BASE
    assert orjson.loads(late)["t"] == 10**17 + payload.TIME_BASE


def test_time_and_ordinal_are_found_before_the_marker() -> None:
    """A chunk gives them away without being parsed."""
    chunk = b'{"seq":7,"data":' + payload.event_data(123456789, 42) + b"}"
    marker = chunk.find(MARKER)

    assert payload.time_ns_at(chunk, marker) == 123456789
    assert payload.ordinal_at(chunk, marker) == 42


def test_kept_tail_reaches_back_to_the_publish_time() -> None:
    """An event cut in its last byte is still whole in the tail."""
    assert payload.TIME_START + len(MARKER) <= payload.TAIL_BYTES
