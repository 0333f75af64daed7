"""Reads an event stream by the rules of WHATWG HTML 9.2.6, for tests."""

from __future__ import annotations

import re


def read_stream(stream: bytes) -> list[tuple[str, str]]:
    """The messages of *stream*: data, and the id of the block itself or ''."""
    messages = []
    data: list[str] = []
    block_id = ""
    for line in re.split("\r\n|\n|\r", stream.decode()):
        if not line:
            if data:
                messages.append(("\n".join(data), block_id))
            data, block_id = [], ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id":
            block_id = value
    return messages
