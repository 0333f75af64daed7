"""What a worker knows of sessions."""

from __future__ import annotations

from broker.protocols.formats import NATIVE, SSE
from broker.worker.channels import Channels, State
from tests.fakes import FakeSocket
from tests.unit.worker.parts import new_sub


def test_a_session_has_one_channel() -> None:
    """The second who asks gets the channel of the first."""
    channels = Channels()
    channel, new = channels.get_or_add("s1")
    assert new
    assert channels.get_or_add("s1") == (channel, False)


def test_only_the_newest_request_is_answered() -> None:
    """A channel that was asked for again ignores the answer to the former request."""
    channels = Channels()
    channel, _new = channels.get_or_add("s1")
    former = channels.new_token(channel)
    newest = channels.new_token(channel)
    assert channels.answered(former) is None
    assert channels.answered(newest) is channel
    assert channel.token == 0
    assert channels.answered(newest) is None


def test_answers_can_be_called_off() -> None:
    """After the reader is lost no answer of its time means anything."""
    channels = Channels()
    channel, _new = channels.get_or_add("s1")
    token = channels.new_token(channel)
    channels.expect_no_answer()
    assert channels.answered(token) is None
    assert channel.token == 0


def test_a_new_number_replaces_the_former() -> None:
    """A channel is known under one number at a time, and under none with 0."""
    channels = Channels()
    channel, _new = channels.get_or_add("s1")
    channels.set_number(channel, 3)
    channels.set_number(channel, 4)
    assert channels.by_number == {4: channel}
    assert channel.joined
    channels.set_number(channel, 0)
    assert not channels.by_number
    assert not channel.joined


def test_removing_forgets_everything() -> None:
    """Neither session, number nor request lead to a channel that was removed."""
    channels = Channels()
    channel, _new = channels.get_or_add("s1")
    channels.set_number(channel, 3)
    token = channels.new_token(channel)
    channels.remove(channel)
    assert not channels.by_session
    assert not channels.by_number
    assert channels.answered(token) is None


def test_a_channel_is_needed_while_anybody_reads_it() -> None:
    """Live, behind and the worker's own probe all count."""
    channel, _new = Channels().get_or_add("s1")
    needed = [channel.needed]
    live = new_sub(channel, FakeSocket(SSE))
    behind = new_sub(channel, FakeSocket(NATIVE), state=State.REPLAYING)
    assert channel.everybody() == [live, behind]
    needed.append(channel.needed)
    channel.live[SSE].clear()
    needed.append(channel.needed)
    channel.behind.clear()
    needed.append(channel.needed)
    channel.pinned = True
    needed.append(channel.needed)
    assert needed == [False, True, True, False, True]


def test_no_two_streams_share_a_life() -> None:
    """A channel that is made anew, or found to be another stream, has a new number."""
    channels = Channels()
    channel, _new = channels.get_or_add("s1")
    lives = {channel.life}
    channel.begin_life()
    lives.add(channel.life)
    channels.remove(channel)
    lives.add(channels.get_or_add("s1")[0].life)
    assert len(lives) == 3
