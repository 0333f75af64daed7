"""Entries that break the contract take their place and harm nothing."""

from __future__ import annotations

import re

import pytest

from tests.conftest import NewWatcher
from tests.harness import http
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer

BAD: list[tuple[dict[str, str | bytes], str]] = [
    ({"data": "1"}, "no_event"),
    ({"event": "", "data": "1"}, "no_event"),
    ({"event": "e", "data": "{not json"}, "not_json"),
    ({"event": "e", "data": ""}, "not_json"),
    ({"event": "e", "data": "1 2"}, "not_json"),
    ({"event": "e", "data": "NaN"}, "not_json"),
    ({"event": "e", "data": b"\xff\xfe\x00"}, "not_utf8"),
    ({"event": b"\xc3\x28", "data": "1"}, "not_utf8"),
    ({"event": "e" * 2000, "data": "1"}, "field_too_large"),
    ({"event": "e", "data": '"' + "x" * (5 << 20) + '"'}, "too_large"),
    ({"event": "e", "data": b'"\xed\xa0\x80"'}, "not_utf8"),
]
IDS = [f"{i}-{reason}" for i, (_, reason) in enumerate(BAD)]
BOTH = pytest.mark.parametrize("protocol", ["websocket", "sse"])


@BOTH
@pytest.mark.parametrize(("fields", "reason"), BAD, ids=IDS)
async def test_bad_entry_becomes_a_skipped_frame_in_its_place(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    fields: dict[str, str | bytes],
    reason: str,
    protocol: str,
) -> None:
    """Its neighbours arrive, and the frame has the id and the reason."""
    watcher = await watch(broker, session, protocol).open()
    await author.publish(session)
    bad = await author.publish_raw(session, fields)
    await author.publish(session)
    await recorder.complete()
    before, skipped, after = watcher.events

    # Beside an entry of 5 MiB the ordinals may come late (they are costly to read).
    assert [f.get("seq", i) for i, f in enumerate((before, skipped, after), 1)] == [
        *(1, 2, 3)
    ]
    assert skipped["id"].partition("@")[0] == f"{bad[0]}-{bad[1]}"
    assert skipped["event"] == "skipped"
    assert skipped["session"] == session
    assert skipped["data"]["reason"] == reason
    assert skipped["data"]["message"]


@BOTH
async def test_bad_entries_are_skipped_in_a_replay_as_well(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """Resuming over bad entries gives the same frames as being there."""
    for fields, _ in BAD:
        await author.publish_raw(session, fields)
        await author.publish(session)
    watcher = await watch(broker, session, protocol).open({"last_event_id": "0"})
    await recorder.complete()
    skipped = [f for f in watcher.events if f["event"] == "skipped"]

    assert [f["data"]["reason"] for f in skipped] == [reason for _, reason in BAD]
    assert len(watcher.events) == 2 * len(BAD)


async def test_a_flood_of_bad_entries_leaves_others_alone(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A publisher that does everything wrong disturbs no other session."""
    bad = await watch(broker, f"{session}.bad").open()
    good = await watch(broker, session).open()
    for _ in range(100):
        await author.publish_raw(f"{session}.bad", {"nothing": "here"})
        await author.publish(session)
    await recorder.complete()

    assert {frame["event"] for frame in bad.events} == {"skipped"}
    assert [frame["seq"] for frame in good.events] == list(range(1, 101))


async def test_bad_entries_are_counted_and_logged_by_reason(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
) -> None:
    """The metric has the reason, the log the id and nothing of the content."""
    before = await skipped_count(broker, "not_json")
    watcher = await watch(broker, session).open()
    entry_id = await author.publish_raw(session, {"event": "e", "data": "sEcReT{"})
    await watcher.next("skipped")
    text = f"{entry_id[0]}-{entry_id[1]}"

    assert await skipped_count(broker, "not_json") == before + 1
    assert broker.log.wait_for(lambda line: text in line, 5.0) is not None
    assert "sEcReT" not in broker.log.text


async def test_wrong_type_of_key_is_an_error_to_its_subscribers_only(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
) -> None:
    """A key that is no stream starves none of the others."""
    broker.allowed.append("stream_unreadable")
    watcher = await watch(broker, session).open()
    wrong = f"{session}.wrong"
    other = await watch(broker, wrong).open()
    await author.redis.set(f"broker:events:{wrong}", "a string")
    for _ in range(50):
        await author.publish(session)
    await other.next("error")
    await author.delete(wrong)
    await author.publish(wrong)
    await author.publish(session, event="end")
    await watcher.next("end")


async def skipped_count(broker: BrokerServer, reason: str) -> float:
    metrics = (await http.get(broker.admin, "/metrics")).body.decode()
    found = re.search(
        rf'broker_\w*skipped\w*_total{{reason="{reason}"}} (\S+)', metrics
    )
    assert found, "no metric of skipped entries"
    return float(found[1])
