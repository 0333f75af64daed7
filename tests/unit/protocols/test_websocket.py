"""The strict parser, case by case; numbers are those of the Autobahn suite."""

from __future__ import annotations

import sys

import pytest

from broker.protocols.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameParser,
    read_close,
)
from tests.unit.protocols.peer import LIMIT, bytewise, client_frame, fragments, run


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_of_every_length_form(opcode, size):
    """1.1, 1.2: payloads at the edges of the length forms arrive."""
    assert run(client_frame(opcode, b"*" * size)) == ([(opcode, b"*" * size)], None)


def test_frame_in_many_reads():
    """1.1.8: a long frame may come in any number of pieces."""
    frame = client_frame(TEXT, b"*" * 65536)
    chunks = [frame[at : at + 997] for at in range(0, len(frame), 997)]

    assert run(*chunks) == ([(TEXT, b"*" * 65536)], None)


def test_pings_are_given_in_order():
    """2.10: ten pings in one read are ten pings."""
    payloads = [b"payload-%d" % number for number in range(10)]

    assert run(b"".join(client_frame(PING, payload) for payload in payloads)) == (
        [(PING, payload) for payload in payloads],
        None,
    )


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_long_control_frame_is_refused(opcode):
    """2.5, 7.3.6: a control frame carries at most 125 bytes."""
    code = b"\x03\xe8" if opcode == CLOSE else b"xx"

    assert run(client_frame(opcode, code + b"x" * 123))[1] is None
    assert run(client_frame(opcode, code + b"x" * 124)) == ([], 1002)


@pytest.mark.parametrize("rsv", [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_reserved_bits_are_refused(rsv, opcode):
    """3: without an extension the reserved bits are zero."""
    good, bad = client_frame(TEXT, b"first"), client_frame(opcode | rsv)

    assert run(good + bad + good) == ([(TEXT, b"first")], 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused(opcode):
    """4: a reserved opcode fails the connection, what came before counts."""
    good = client_frame(TEXT, b"first")

    assert run(good + client_frame(opcode) + good) == ([(TEXT, b"first")], 1002)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frame_is_refused(opcode):
    """5.1, 5.2: control frames come whole."""
    assert run(client_frame(opcode, fin=False)) == ([], 1002)


def test_control_frame_between_fragments_comes_first():
    """5.6 to 5.8: a ping within a fragmented message is answered at once."""
    sent = client_frame(TEXT, b"frag", fin=False) + client_frame(PING, b"p")
    sent += client_frame(CONTINUATION, b"ment")

    assert run(sent) == ([(PING, b"p"), (TEXT, b"fragment")], None)
    assert run(*bytewise(sent)) == ([(PING, b"p"), (TEXT, b"fragment")], None)


@pytest.mark.parametrize("fin", [True, False])
def test_continuation_of_nothing_is_refused(fin):
    """5.9 to 5.14: a continuation needs a message, and a finished one is none."""
    lone = client_frame(CONTINUATION, b"x", fin=fin)

    assert run(lone) == ([], 1002)
    assert run(fragments(TEXT, b"a", b"b") + lone) == ([(TEXT, b"ab")], 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_within_a_fragmented_one_is_refused(opcode):
    """5.18: fragments of two messages do not mix."""
    start = client_frame(TEXT, b"a", fin=False)

    assert run(start + client_frame(opcode, b"b")) == ([], 1002)
    assert run(start, client_frame(opcode, b"b")) == ([], 1002)


def test_empty_fragments_make_an_empty_message():
    """6.1.2: three empty fragments are one empty text."""
    assert run(fragments(TEXT, b"", b"", b"")) == ([(TEXT, b"")], None)


def test_characters_may_be_cut_between_fragments():
    """6.2.3, 6.2.4: fragments of single octets are joined before they are judged."""
    text = "Hello-µ@ßöäüàá-UTF-8!!😀".encode()

    assert run(fragments(TEXT, *bytewise(text))) == ([(TEXT, text)], None)


NOT_UTF8 = [
    b"\x80",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5",
    b"\xff",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
]


@pytest.mark.parametrize("text", NOT_UTF8)
def test_text_that_is_not_utf8_is_refused(text):
    """6.3, 6.8 to 6.21: wrong octets fail the connection with 1007."""
    assert run(client_frame(TEXT, text)) == ([], 1007)
    assert run(fragments(TEXT, *bytewise(text))) == ([], 1007)


@pytest.mark.parametrize("text", NOT_UTF8)
def test_binary_may_be_anything(text):
    """Only text is judged as UTF-8."""
    assert run(fragments(BINARY, *bytewise(text))) == ([(BINARY, text)], None)


@pytest.mark.parametrize("text", [b"\xce", b"\xe1\xbd", b"\xf0\x9f\x98", b"a\xc3"])
def test_text_that_ends_within_a_character_is_refused(text):
    """6.6: a message cannot end in the middle of a character."""
    assert run(client_frame(TEXT, text)) == ([], 1007)
    assert run(fragments(TEXT, text, b"")) == ([], 1007)


def test_character_cannot_go_on_after_another_one():
    """An ASCII fragment within a cut character is wrong, whatever follows it."""
    assert run(fragments(TEXT, b"\xce", b"a", b"\xba")) == ([], 1007)


def test_wrong_text_fails_before_its_message_ends():
    """6.4.1, 6.4.2: the fragment with the wrong octet is enough."""
    good = client_frame(TEXT, b"\xce\xba\xf4", fin=False)
    bad = client_frame(CONTINUATION, b"\x90\x80", fin=False)
    parser = FrameParser(LIMIT)
    assert parser.feed(good) == []

    with pytest.raises(FrameError) as caught:
        parser.feed(bad)
    assert caught.value.code == 1007


def test_wrong_text_fails_before_its_frame_ends():
    """6.4.3, 6.4.4: within one frame, the wrong octet itself is enough."""
    frame = client_frame(TEXT, b"\xce\xba\xf4\x90\x80\x80edited")
    parser = FrameParser(LIMIT)
    assert parser.feed(frame[: 6 + 3]) == []

    with pytest.raises(FrameError) as caught:
        parser.feed(frame[6 + 3 : 6 + 4])
    assert caught.value.code == 1007


def test_nothing_is_read_after_a_close_frame():
    """7.1: whatever follows a close frame is ignored, in the same read and later."""
    parser = FrameParser(LIMIT)
    close, text = client_frame(CLOSE, b"\x03\xe8"), client_frame(TEXT, b"late")

    assert parser.feed(close + text) == [(CLOSE, b"\x03\xe8")]
    assert parser.feed(text) == []
    assert parser.feed(b"\xff\xff") == []


def test_close_within_a_fragmented_message_ends_it():
    """7.1.5: a close frame between fragments closes."""
    sent = client_frame(TEXT, b"frag", fin=False) + client_frame(CLOSE, b"\x03\xe8")

    assert run(sent + client_frame(CONTINUATION, b"ment")) == (
        [(CLOSE, b"\x03\xe8")],
        None,
    )


def test_nothing_is_read_after_a_fault():
    """A connection that broke the protocol is not read on."""
    parser = FrameParser(LIMIT)
    with pytest.raises(FrameError):
        parser.feed(b"\xff\xff")

    assert parser.feed(client_frame(TEXT, b"late")) == []


GOOD_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", GOOD_CODES)
def test_valid_close_codes_are_taken(code):
    """7.7: each code that may be sent may come."""
    payload = code.to_bytes(2, "big") + b"why"

    assert run(client_frame(CLOSE, payload)) == ([(CLOSE, payload)], None)
    assert read_close(payload) == (code, "why")


@pytest.mark.parametrize("code", BAD_CODES)
def test_invalid_close_codes_are_refused(code):
    """7.9, 7.13: each code that must not be sent is answered with 1002."""
    assert run(client_frame(CLOSE, code.to_bytes(2, "big"))) == ([], 1002)


def test_close_payloads_of_no_and_one_byte():
    """7.3.1, 7.3.2: no code is allowed, half a code is not."""
    assert run(client_frame(CLOSE)) == ([(CLOSE, b"")], None)
    assert read_close(b"") == (NO_CODE, "")
    assert run(client_frame(CLOSE, b"\x03")) == ([], 1002)


def test_close_reason_that_is_not_utf8_is_refused():
    """7.5.1: a reason is text."""
    assert run(client_frame(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80")) == ([], 1007)


@pytest.mark.parametrize(
    "frame", [b"\x81\x00", b"\x81\x05hello", b"\x8a\x00", b"\x88\x00"]
)
def test_unmasked_frame_is_refused(frame):
    """RFC 6455 5.1: a server closes on a frame that is not masked."""
    assert run(frame) == ([], 1002)


@pytest.mark.parametrize(
    "header",
    [
        b"\xfe\x00\x7d",
        b"\xfe\x00\x00",
        b"\xff" + (65535).to_bytes(8, "big"),
        b"\xff" + bytes(8),
        b"\xff\x80" + bytes(7),
        b"\xff" + b"\xff" * 8,
    ],
    ids=bytes.hex,
)
def test_length_in_a_wrong_form_is_refused(header):
    """RFC 6455 5.2: the shortest form must be used, and the top bit is zero."""
    assert run(b"\x82" + header) == ([], 1002)


def test_largest_63_bit_length_is_too_big_not_malformed():
    """A length that the RFC allows but nobody reads is answered with 1009."""
    assert run(b"\x82\xff\x7f" + b"\xff" * 7) == ([], 1009)


@pytest.mark.parametrize("limit", [10, 200])
def test_message_is_bounded_before_it_is_received(limit):
    """A frame above the bound is refused by its header; one at the bound is taken."""
    frame = client_frame(TEXT, b"x" * (limit + 1))

    assert run(client_frame(TEXT, b"x" * limit), limit=limit)[1] is None
    assert run(frame, limit=limit) == ([], 1009)
    assert run(frame[: len(frame) - limit - 1 - 4], limit=limit) == ([], 1009)


def test_bound_counts_all_fragments():
    """Fragments cannot add up to more than the bound; control frames do not count."""
    ping = client_frame(PING, b"x" * 100)
    start = client_frame(BINARY, b"12345", fin=False) + ping

    assert run(start + client_frame(CONTINUATION, b"67890"), limit=10)[1] is None
    assert run(start + client_frame(CONTINUATION, b"67890x"), limit=10)[1] == 1009


def test_control_frames_may_exceed_a_small_bound():
    """The bound is for messages: RFC 6455 bounds control frames itself."""
    assert run(client_frame(PONG, b"x" * 125), limit=10)[1] is None


@pytest.mark.parametrize(
    "before",
    [
        client_frame(TEXT, b"short"),
        client_frame(TEXT, b"x" * 60_000),
        client_frame(TEXT, b"one") * 2,
        fragments(TEXT, b"a", b"b"),
        b"",
    ],
    ids=["short", "long", "two", "fragments", "nothing"],
)
def test_idle_parser_holds_no_buffer(before):
    """Between messages a connection costs the parser alone: 10 000s of them idle."""
    parser = FrameParser(LIMIT)
    for chunk in [before[:7], before[7:]]:
        parser.feed(chunk)

    assert parser._unfinished is None
    assert sys.getsizeof(parser) <= 48
    assert not hasattr(parser, "__dict__")
