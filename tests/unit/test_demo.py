"""The demo feed: runs that look like an agent's, with a beginning and an end."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from broker.demo import Step, agent_run


def steps(seed: int) -> list[Step]:
    return list(agent_run(7, random.Random(seed)))


@pytest.mark.parametrize("seed", range(20))
def test_run_begins_and_ends_and_shows_every_kind(seed: int):
    """Each run has one start, one end, and every kind of event in between."""
    run = steps(seed)
    kinds = Counter(step.event for step in run)

    assert (run[0].event, run[-1].event) == ("run_started", "run_finished")
    assert kinds["run_started"] == kinds["run_finished"] == 1
    assert kinds["tool_call"] == kinds["tool_result"] == kinds["token_usage"] == 1
    assert kinds["node_state_change"] == 4
    assert kinds["token_stream"] > 10


def test_tokens_join_to_the_sentence():
    """The chunks of one node give its text back, blanks included."""
    chunks = [
        str(step.data["chunk"])
        for step in steps(1)
        if step.event == "token_stream" and step.data["node_id"] == "writer"
    ]
    text = "".join(chunks)

    assert text.endswith((".", "!"))
    assert "  " not in text
    assert len(text.split(" ")) == len(chunks)


def test_pauses_are_those_of_a_person_watching():
    """A run takes some seconds: neither a flood nor a wait."""
    assert 2 < sum(step.pause_s for step in steps(2)) < 10
