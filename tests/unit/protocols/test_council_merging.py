"""What is merged for a client of the hub that lags, and that nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.protocols import websocket
from broker.protocols.council import CHUNK_BYTES_MAX, ChunkMerger
from tests.unit.protocols.council_parts import MS, SESSION, entry, frames, new_format


def chunk(text: str, node: str = "a", **more: object) -> bytes:
    """The frame of one chunk, at the place in time that its text gives it."""
    data = json.dumps({"node_id": node, "agent_id": "g", "chunk": text, **more})
    return new_format().event(SESSION, MS, len(text), 1, entry(data))


def merged(*given: bytes) -> list[dict[str, Any]]:
    """What an editor makes of some frames."""
    editor = ChunkMerger()
    edited = [editor.add(frame) for frame in given]
    return frames(b"".join([*edited, editor.finish()]))


def test_neighbouring_chunks_of_a_node_become_one():
    """With their text, and the timestamp of the newest."""
    (frame,) = merged(chunk("H"), chunk("é\\"), chunk('"l\n'))

    assert frame == {
        "event": "token_stream",
        "timestamp": "2025-11-21T04:26:40.000000003Z",
        "node_id": "a",
        "data": {
            "node_id": "a",
            "agent_id": "g",
            "chunk": 'Hé\\"l\n',
            "session_uuid": "s1",
        },
    }


def test_an_unmerged_chunk_is_what_it_was():
    """To the letter."""
    editor = ChunkMerger()
    given = chunk("alone")

    assert editor.add(given) == b""
    assert editor.finish() == given
    assert editor.finish() == b""


@pytest.mark.parametrize(
    "other",
    [
        chunk("x", node="b"),
        chunk("x", agent_id="h"),
        chunk("x", session_uuid="s2"),
        chunk("x", is_thinking=True),
    ],
    ids=["node", "agent", "session", "more"],
)
def test_chunks_that_differ_are_not_merged(other: bytes):
    """Neither with the one before nor with the one behind."""
    given = [chunk("1"), other, chunk("2")]
    assert merged(*given) == frames(b"".join(given))


def lone(data: str, event: str = "token_stream", node_id: str = "a") -> bytes:
    return new_format().event(SESSION, MS, 0, 1, entry(data, event, node_id))


@pytest.mark.parametrize(
    "other",
    [
        lone('{"chunk":null}'),
        lone('{"chunk":5}'),
        lone("{}"),
        lone('["x"]'),
        lone('{"chunk":"x"}', node_id=""),
        lone('{"chunk":"x"}', "token_usage"),
        lone('{"chunk":"x"}', "node_state_change"),
        lone('{"chunk":"x"}', "error"),
        lone('{"chunk":"x"}', "token_stream2"),
        new_format().notice("reset", {}, "s1"),
    ],
    ids=lambda frame: str(frames(frame)[0]),
)
def test_nothing_else_is_ever_merged(other: bytes):
    """Neither with chunks around it nor with its like."""
    given = [chunk("1"), other, other, chunk("2")]
    assert merged(*given) == frames(b"".join(given))


def test_a_merged_chunk_is_bounded():
    """The rest begins a new one."""
    half = "x" * (CHUNK_BYTES_MAX // 2 - 2)
    made = merged(chunk(half), chunk(half), chunk("y"))

    assert [len(frame["data"]["chunk"]) for frame in made] == [2 * len(half), 1]


def test_chunks_in_large_frames_are_merged_like_others():
    """Whatever makes them large."""
    (frame,) = merged(chunk("a", pad="x" * 70_000), chunk("b", pad="x" * 70_000))

    assert frame["data"]["chunk"] == "ab"


def test_chunks_of_two_nodes_by_their_entries_are_not_merged():
    """What data says of the node does not make them one."""
    given = [lone('{"node_id":"a","chunk":"x"}', node_id=node) for node in "ab"]

    assert len(merged(*given)) == 2


def test_a_chunk_that_is_larger_than_that_is_left_alone():
    """Nothing is cut up."""
    large = "x" * (CHUNK_BYTES_MAX + 1)
    made = merged(chunk("a"), chunk(large), chunk("b"))

    assert [frame["data"]["chunk"] for frame in made] == ["a", large, "b"]


NODES = st.sampled_from("ab")
SAID = st.lists(
    st.tuples(st.just("token_stream"), NODES, st.text(max_size=5))
    | st.tuples(st.sampled_from(["token_usage", "error"]), NODES, st.just(""))
)


@given(SAID)
def test_merging_changes_nothing_that_a_client_can_tell(
    said: list[tuple[str, str, str]],
):
    """The text of each node between other events, and those events, are the same."""
    wire = new_format()
    given = [
        wire.event(SESSION, MS, at, 1, entry(json.dumps({"chunk": text}), event, node))
        for at, (event, node, text) in enumerate(said)
    ]
    made = merged(*given)

    assert transcript(made) == transcript(frames(b"".join(given)))
    stamps = [frame["timestamp"] for frame in made]
    assert stamps == sorted(set(stamps))


def transcript(told: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What the store makes of frames: it appends to the last text of the node."""
    lines: list[tuple[str, str, str]] = []
    for frame in told:
        event, node = frame["event"], frame["node_id"]
        text = frame["data"]["chunk"]
        if event == "token_stream" and lines and lines[-1][:2] == (event, node):
            text = lines.pop()[2] + text
        lines.append((event, node, text))
    return lines


@given(st.lists(st.binary(max_size=40)))
@example([b""])
@example([b'{"event":"token_stream","node_id":"a"}'])
def test_the_editor_passes_on_whatever_it_does_not_know(texts: list[bytes]):
    """It holds nothing back for good and loses nothing."""
    editor = ChunkMerger()
    given = [websocket.text_frame(text) for text in texts]
    edited = [editor.add(frame) for frame in given]

    assert b"".join([*edited, editor.finish()]) == b"".join(given)
    assert editor.held == b""


def test_only_a_lagging_client_gets_merged_chunks():
    """Who asked for the past gets it as it was published."""
    assert isinstance(new_format().editor(lagging=True), ChunkMerger)
    assert new_format().editor(lagging=False) is None
