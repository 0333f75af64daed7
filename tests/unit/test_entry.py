"""Reading entries as publishers wrote them."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import (
    MAX_DETAIL_BYTES,
    MAX_NAME_BYTES,
    SKIP_REASONS,
    Event,
    Skipped,
    is_rfc3339,
    read_entry,
)

LIMIT = 1 << 20

NAMES = st.sampled_from(
    [b"event", b"data", b"timestamp", b"node_id", b"key", b"transient", b"other"]
)
VALUES = st.binary(max_size=40) | st.sampled_from([b"1", b"{}", b"[1]", b"null", b"e"])
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def reason(fields: list[bytes], limit: int = LIMIT) -> str:
    entry = read_entry(fields, limit)
    assert isinstance(entry, Skipped)
    return entry.reason


def read(*fields: bytes) -> Event:
    entry = read_entry([b"event", b"e", *fields], LIMIT)
    assert isinstance(entry, Event)
    return entry


def test_all_fields_are_read():
    """Every field of the contract arrives as the publisher wrote it."""
    fields = [b"event", b"token", b"data", b'{"a": 1}', b"node_id", b"n1"]
    fields += [b"timestamp", b"2025-11-21T04:26:40Z", b"key", b"k", b"transient", b"1"]

    assert read_entry(fields, LIMIT) == Event(
        b"token", b'{"a": 1}', b"2025-11-21T04:26:40Z", b"n1", b"k", True
    )


def test_only_event_is_required():
    """What a publisher leaves out has its default."""
    assert read() == Event(b"e", b"null", b"", b"", b"", False)


def test_unknown_fields_are_ignored():
    """Publishers may keep fields of their own in the entry."""
    assert read(b"trace", b"\xff\x00") == read()


def test_last_of_two_equal_fields_counts():
    """A field given twice has its last value."""
    assert read(b"data", b"1", b"data", b"2").data == b"2"


def test_data_is_verbatim():
    """White space and escapes of the JSON text are not touched."""
    data = b' {"a" :\r\n "\\u00e9", "b":1e999} '

    assert read(b"data", data).data == data


@pytest.mark.parametrize("value", [b"", b"0", b"true", b"11"])
def test_only_1_is_transient(value):
    """An entry is replayed unless it says transient 1."""
    assert not read(b"transient", value).transient


@pytest.mark.parametrize("fields", [[], [b"data", b"1"], [b"event", b""]])
def test_no_event_is_skipped(fields):
    """An entry without a name of its event breaks the contract."""
    assert reason(fields) == "no_event"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"NaN",
        b"nul",
        b"'a'",
        b"01",
        b"1.",
        b"{} {}",
        b"[1,]",
        b'{"a":1,}',
        b"{1:2}",
        b'"a\nb"',
        b'"\x00"',
        b'"\\x"',
        b'"open',
        b"\xef\xbb\xbf1",
        b'"\\ud800"',
        b"[" * 100_000,
        b"[" * 60_000 + b"]" * 60_000,
    ],
    ids=lambda data: f"{data[:12]!r}-{len(data)}",
)
def test_data_that_is_not_json_is_skipped(data):
    """What a client's JSON parser would refuse is never put into a frame."""
    assert reason([b"event", b"e", b"data", data]) == "not_json"


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"'])
def test_data_that_is_not_utf8_is_skipped(data):
    """A text frame with it would make every client close the connection."""
    assert reason([b"event", b"e", b"data", data]) == "not_utf8"


@pytest.mark.parametrize("name", [b"event", b"node_id"])
def test_name_that_is_not_utf8_is_skipped(name):
    """Names become JSON strings, so they must be text."""
    assert reason([b"event", b"e", name, b"\xff"]) == "not_utf8"


@pytest.mark.parametrize("name", [b"event", b"node_id", b"key"])
def test_names_are_bounded(name):
    """A name of 1024 bytes is taken, one more is not."""
    longest = b"x" * MAX_NAME_BYTES

    assert isinstance(read_entry([b"event", b"e", name, longest], LIMIT), Event)
    assert reason([b"event", b"e", name, longest + b"x"]) == "field_too_large"


def test_size_counts_all_names_and_values():
    """Unknown fields count as well: they travel from Redis like the others."""
    fields = [b"event", b"e", b"junk", b"12345"]

    assert isinstance(read_entry(fields, 15), Event)
    assert reason(fields, 14) == "too_large"


def test_timestamp_that_is_not_rfc3339_is_as_if_absent():
    """A bad timestamp does not cost the event."""
    assert read(b"timestamp", b"yesterday").timestamp == b""


@pytest.mark.parametrize(
    "text",
    [
        b"2025-11-21T04:26:40Z",
        b"2025-11-21t04:26:40z",
        b"2025-11-21T04:26:40.123456789+08:00",
        b"2024-02-29T23:59:60-00:00",
        b"2000-02-29T00:00:00.1Z",
    ],
)
def test_rfc3339_is_recognized(text):
    """Every form of RFC 3339 section 5.6 is one."""
    assert is_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"2025-11-21",
        b"2025-11-21T04:26:40",
        b"2025-11-21 04:26:40Z",
        b"2025-11-21T04:26:40Z\n",
        b"2025-11-21T24:00:00Z",
        b"2025-11-21T04:60:00Z",
        b"2025-11-21T04:26:61Z",
        b"2025-11-21T04:26:40.Z",
        b"2025-11-21T04:26:40+24:00",
        b"2025-13-01T00:00:00Z",
        b"2025-00-01T00:00:00Z",
        b"2025-04-31T00:00:00Z",
        b"2025-02-29T00:00:00Z",
        b"1900-02-29T00:00:00Z",
        b"2025-01-32T00:00:00Z",
        b"2025-01-01T00:00:00." + b"0" * 60 + b"Z",
        b'2025-01-01T00:00:00Z","x":"',
    ],
)
def test_what_is_not_rfc3339_is_refused(text):
    """Days that do not exist and near misses are not timestamps."""
    assert not is_rfc3339(text)


@given(st.lists(NAMES | VALUES, max_size=14))
def test_any_fields_give_an_event_or_a_known_reason(fields):
    """Nothing that a publisher can write raises."""
    entry = read_entry(fields, 200)

    assert isinstance(entry, Event) or entry.reason in SKIP_REASONS


@given(st.binary(max_size=300))
def test_detail_is_short_plain_text(data):
    """What is logged and sent about a skipped entry is safe to print."""
    entry = read_entry([b"event", b"e", b"data", b"\x00" + data], LIMIT)

    assert isinstance(entry, Skipped)
    assert entry.detail.isascii()
    assert 0 < len(entry.detail) <= MAX_DETAIL_BYTES


def test_detail_repeats_no_content():
    """The secret of a publisher's broken entry reaches no client and no log."""
    entry = read_entry([b"event", b"e", b"data", b'{"canary": canary}'], LIMIT)

    assert isinstance(entry, Skipped)
    assert b"canary" not in entry.detail


@given(JSON_VALUES)
def test_every_json_value_is_delivered(value):
    """Whatever the standard library writes as JSON in UTF-8 is an event's data."""
    data = json.dumps(value, ensure_ascii=False).encode()

    assert read(b"data", data).data == data


@given(st.text(alphabet='{}[]",:\\0123456789.-+eEtrufalsn \n\x00é', max_size=12))
def test_delivered_data_is_json_for_others(text):
    """What is let through, another strict JSON parser reads too."""
    entry = read_entry([b"event", b"e", b"data", text.encode()], LIMIT)

    assert isinstance(entry, Skipped) or _parses(entry.data)


def _parses(data: bytes) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    json.loads(data, parse_constant=refuse)
    return True


def test_values_are_not_tracked_by_the_collector():
    """Created 80 000 times a second: they must not feed the garbage collector."""
    assert not Event.__struct_config__.gc
    assert not Skipped.__struct_config__.gc
    assert isinstance(read(), msgspec.Struct)
