"""Children that die, hang or give up, under a real supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from datetime import datetime
from itertools import pairwise

import pytest

from broker.process import ExitStatus
from tests.harness.processes import is_alive, state, wait_gone
from tests.integration.supervisor.pod import eventually, running_pod


async def test_killed_worker_is_started_again_at_once() -> None:
    """The first restart does not wait, and the others are left alone."""
    async with running_pod() as pod:
        before = await pod.child("worker_1")
        other = await pod.child("worker_2")
        os.kill(before["pid"], signal.SIGKILL)
        ended = await pod.logged("child_ended")
        await pod.logged("child_started", 4)

        await eventually(lambda: pod.is_state("worker_1", "ready"), 5)
        assert ended["signal"] == "SIGKILL"
        assert "memory" in ended["hint"]
        assert (await pod.child("worker_1"))["pid"] != before["pid"]
        assert (await pod.child("worker_2"))["pid"] == other["pid"]
        assert await pod.metric("broker_child_restarts_total", role="worker") == 1
        assert await pod.metric("broker_child_restarts_total", role="reader") == 0


async def test_reader_is_started_only_after_the_one_before_was_reaped() -> None:
    """Two writers would corrupt the ring: the old process is gone for the kernel."""
    async with running_pod() as pod:
        for number in range(3):
            pid = (await pod.child("reader"))["pid"]
            os.kill(pid, signal.SIGKILL)
            await pod.logged("child_ended", number + 1)
            started = await pod.logged("child_started", number + 4)
            assert started["child"] == "reader"
            # A zombie would still take signals.
            assert state(pid) == ""

        events = [x for x in pod.lines if x.get("child") == "reader"]
        names = [x["event"] for x in events]
        assert names == ["child_started", *["child_ended", "child_started"] * 3]


async def test_dead_or_hung_worker_neither_breaks_nor_distorts_the_scrape() -> None:
    """It is answered at once, what was counted stays, what is no more is gone."""
    async with running_pod({"workers": 3, "hang_s": 60}, worker="once") as pod:
        assert await pod.metric("broker_connections_open", protocol="websocket") == 300
        hung, dead = [(await pod.child(f"worker_{n}"))["pid"] for n in (1, 2)]
        os.kill(hung, signal.SIGSTOP)
        os.kill(dead, signal.SIGKILL)
        await pod.logged("child_ended")
        delivered = await pod.metric("broker_events_delivered_total")

        async with asyncio.timeout(1):
            text = (await pod.ask("/metrics")).body.decode()
        assert text.count("# TYPE") > 40
        assert await pod.metric("broker_connections_open", protocol="websocket") == 200
        assert await pod.metric("broker_events_delivered_total") >= delivered > 0
        assert await pod.metric("broker_worker_silent_seconds", worker="1") > 0
        assert await pod.metric("broker_workers_up") >= 1


async def test_counters_never_go_backward_when_a_worker_restarts() -> None:
    """The next process of a row counts on from where the last one was killed."""
    async with running_pod(worker="counting") as pod:
        seen = [await pod.metric("broker_events_delivered_total")]
        for number in range(3):
            os.kill((await pod.child("worker_1"))["pid"], signal.SIGKILL)
            await pod.logged("child_ended", number + 1)
            seen.append(await pod.metric("broker_events_delivered_total"))
            await pod.logged("child_started", number + 4)
            seen.append(await pod.metric("broker_events_delivered_total"))

        assert seen == sorted(seen)
        assert seen[0] < seen[-1]


async def test_worker_that_hangs_is_aborted_then_killed_and_replaced() -> None:
    """A stopped process does not even take SIGABRT; SIGKILL ends it."""
    async with running_pod({"hang_s": 0.5}) as pod:
        await pod.announced()
        hung = (await pod.child("worker_2"))["pid"]
        os.kill(hung, signal.SIGSTOP)
        assert (await pod.logged("child_hung"))["child"] == "worker_2"
        ended = await pod.logged("child_ended")
        assert ended["signal"] == "SIGKILL"
        assert "hint" not in ended

        await eventually(lambda: pod.is_state("worker_2", "ready"))
        assert not is_alive(hung)
        assert await pod.metric("broker_child_hung_kills_total", role="worker") == 1


async def test_hung_reader_is_replaced() -> None:
    """Its heartbeat is watched like that of a worker."""
    async with running_pod({"hang_s": 0.5}) as pod:
        await eventually(lambda: pod.is_state("reader", "ready"))
        os.kill((await pod.child("reader"))["pid"], signal.SIGSTOP)
        await pod.logged("child_ended")

        await eventually(lambda: pod.is_state("reader", "ready"))
        assert (await pod.child("reader"))["starts"] == 2
        assert await pod.metric("broker_child_hung_kills_total", role="reader") == 1


async def test_nobody_is_killed_while_most_are_late() -> None:
    """Two of three stand still: that is a starved machine, not a fault of theirs."""
    async with running_pod({"hang_s": 2}) as pod:
        pids = [(await pod.child(f"worker_{n}"))["pid"] for n in (1, 2)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        async def both_are_late() -> bool:
            children = [await pod.child(f"worker_{n}") for n in (1, 2)]
            return all(child["silent_s"] > 3.2 for child in children)

        await eventually(both_are_late)
        assert all(is_alive(pid) for pid in pids)
        assert await pod.reasons() == ["worker_1_silent", "worker_2_silent"]


async def test_crash_loop_is_slowed_down() -> None:
    """Starts come at 0, 0, 0.5 and 1.5 s: no processor is burned."""
    async with running_pod(worker="die") as pod:
        started = [await pod.logged("child_started", n) for n in range(1, 10)]
        worker = [x for x in started if x["child"] == "worker_1"]

        times = [datetime.fromisoformat(x["timestamp"]) for x in worker]
        waits = [(b - a).total_seconds() for a, b in pairwise(times)]
        assert waits[0] < waits[1]
        assert waits[1] >= 0.5
        assert waits[2] >= 1.0


async def test_child_that_is_unusable_stops_everything_with_its_status() -> None:
    """Starting again would fail the same way, so nobody tries."""
    async with running_pod(reader="unusable") as pod:
        assert await pod.ended() == ExitStatus.UNUSABLE

        started = [x for x in pod.lines if x.get("event") == "child_started"]
        assert len(started) == 3


async def test_children_end_when_the_supervisor_is_killed() -> None:
    """Their lifeline ends, on a machine where nobody else ends them."""
    async with running_pod() as pod:
        pids = [(await pod.child(n))["pid"] for n in ("reader", "worker_1", "worker_2")]
        pod.signal(signal.SIGKILL)
        await pod.ended()

        assert wait_gone(pids, 5) == []


async def test_port_stays_reserved_while_no_worker_holds_it() -> None:
    """Nobody can take the port of a pod between two processes of a worker."""
    async with running_pod() as pod:
        public, _ = await pod.announced()

        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", public))
