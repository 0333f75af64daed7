from __future__ import annotations

import os

import pytest

from loadtest.command import CommandPipe


def test_commands_are_returned_when_their_line_is_complete() -> None:
    """A line that came in two pieces is one command."""
    source, sink = os.pipe()
    pipe = CommandPipe(source, sink)
    os.write(sink, b'{"do":"a"}\n{"do":')
    first = pipe.read()
    os.write(sink, b'"b"}\n')

    assert first == [{"do": "a"}]
    assert pipe.read() == [{"do": "b"}]


def test_end_of_input_says_that_the_controller_is_gone() -> None:
    """A child whose controller died must not live on."""
    source, sink = os.pipe()
    os.close(sink)

    with pytest.raises(EOFError):
        CommandPipe(source).read()
