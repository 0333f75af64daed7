"""The reply to XINFO STREAM, taken apart."""

from __future__ import annotations

import pytest
from hiredis import ReplyError

from broker.errors import ServerUnsuitable, StoreRefused, StoreUnavailable
from broker.store.stream_info import StreamInfo, read_stream_info


def test_info_of_a_missing_key_is_none() -> None:
    """Redis answers XINFO of a key that does not exist with an error."""
    assert read_stream_info(ReplyError("ERR no such key")) is None


def test_info_of_another_type_is_refused() -> None:
    """A key that holds no stream is the publisher's mistake and stays one."""
    with pytest.raises(StoreRefused, match="WRONGTYPE") as caught:
        read_stream_info(ReplyError("WRONGTYPE Operation against a key"))

    assert caught.value.kind == "WRONGTYPE"


def test_info_of_a_loading_server_is_unavailable() -> None:
    """A server that is not ready is asked again."""
    with pytest.raises(StoreUnavailable):
        read_stream_info(ReplyError("LOADING Redis is loading the dataset"))


def test_info_of_an_old_server_is_unsuitable() -> None:
    """Without entries-added nothing can be counted."""
    with pytest.raises(ServerUnsuitable, match="entries-added"):
        read_stream_info({b"length": 1, b"last-generated-id": b"1-1"})


def test_info_knows_the_larger_of_first_and_last_entry() -> None:
    """The size of entries is estimated by their fields, names included."""
    reply = {
        b"length": 2,
        b"entries-added": 3,
        b"last-generated-id": b"9-1",
        b"max-deleted-entry-id": b"0-0",
        b"recorded-first-entry-id": b"5-0",
        b"first-entry": [b"5-0", [b"event", b"x"]],
        b"last-entry": [b"9-1", [b"event", b"longer"]],
    }

    assert read_stream_info(reply) == StreamInfo(3, 2, (9, 1), (5, 0), (0, 0), 11)
