"""How a pod leaves, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from broker.supervisor import supervisor
from tests.harness.http import get
from tests.integration.supervisor.pod import eventually, running_pod


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains_workers_then_the_reader(
    number: signal.Signals,
) -> None:
    """Whoever is still connected is served until the workers are gone."""
    async with running_pod() as pod:
        await pod.announced()
        pod.signal(number)
        assert await pod.ended() == 0

        ended = [x for x in pod.lines if x.get("event") == "child_ended"]
        assert {x["child"] for x in ended[:2]} == {"worker_1", "worker_2"}
        assert ended[2]["child"] == "reader"
        assert all(x["status"] == 0 for x in ended)


async def test_readiness_fails_for_a_while_before_workers_are_told() -> None:
    """The load balancer needs time to notice; nobody is turned away meanwhile."""
    async with running_pod({"drain_delay_s": 1.5}) as pod:
        await eventually(pod.is_ready)
        pod.signal(signal.SIGTERM)
        await pod.logged("draining")
        began = time.monotonic()
        response = await pod.ask("/readyz")
        assert response.status == 503
        assert response.json()["reasons"] == ["draining"]
        assert (await pod.ask("/healthz")).status == 200
        assert (await pod.child("worker_1"))["state"] == "ready"

        await pod.ended()
        assert time.monotonic() - began > 1.4


async def test_second_signal_skips_the_delay() -> None:
    """A person who presses Ctrl-C twice does not want to wait."""
    async with running_pod({"drain_delay_s": 60}) as pod:
        await pod.announced()
        pod.signal(signal.SIGINT)
        await pod.logged("draining")
        pod.signal(signal.SIGINT)

        assert await pod.ended() == 0


async def test_second_signal_is_passed_on_to_draining_workers() -> None:
    """As SIGUSR1: two signals of one kind may arrive as one. This one leaves then."""
    async with running_pod({"drain_s": 60}, worker="stubborn") as pod:
        await pod.announced()
        pod.signal(signal.SIGTERM)
        await pod.logged("draining")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pod.logged("child_ended")
        pod.signal(signal.SIGTERM)

        assert await pod.ended() == 0
        ended = [x for x in pod.lines if x.get("event") == "child_ended"]
        assert all(x["status"] == 0 for x in ended)


async def test_reader_that_dies_while_workers_drain_is_replaced() -> None:
    """Clients that are still connected go on getting events until the end."""
    async with running_pod({"drain_s": 60}, worker="stubborn") as pod:
        reader = (await pod.child("reader"))["pid"]
        pod.signal(signal.SIGTERM)
        await pod.logged("draining")
        os.kill(reader, signal.SIGKILL)
        started = await pod.logged("child_started", 4)
        pod.signal(signal.SIGTERM)

        assert started["child"] == "reader"
        assert await pod.ended() == 0


async def test_signal_in_the_last_moment_changes_nothing() -> None:
    """It has done what it was asked for, and must not look as if it had failed."""
    async with running_pod() as pod:
        await pod.announced()
        pod.signal(signal.SIGTERM)
        await pod.logged("stopped")
        ending = asyncio.create_task(pod.ended())
        while not ending.done():
            with contextlib.suppress(ProcessLookupError):
                pod.signal(signal.SIGTERM)
            await asyncio.sleep(0)

        assert await ending == 0


async def test_worker_that_dies_while_draining_is_not_replaced() -> None:
    """It would only take new clients that have to leave at once."""
    async with running_pod({"drain_s": 60}, worker="stubborn") as pod:
        worker = (await pod.child("worker_1"))["pid"]
        pod.signal(signal.SIGTERM)
        await pod.logged("draining")
        os.kill(worker, signal.SIGKILL)
        await pod.logged("child_ended")
        pod.signal(signal.SIGTERM)

        assert await pod.ended() == 0
        started = [x for x in pod.lines if x.get("event") == "child_started"]
        assert len(started) == 3


async def test_worker_that_does_not_leave_is_killed_at_the_deadline() -> None:
    """A drain ends, whatever a worker does."""
    settings = {"drain_s": 0, "workers": 1, "hang_s": 60}
    async with running_pod(settings, worker="deathless") as pod:
        await pod.announced()
        began = time.monotonic()
        pod.signal(signal.SIGTERM)
        killed = await pod.logged("killed_at_deadline")

        assert await pod.ended() == 0
        ended = [x for x in pod.lines if x.get("event") == "child_ended"]
        assert [x.get("signal") for x in ended] == ["SIGKILL", None]
        assert killed["child"] == ended[0]["child"] == "worker_1"
        assert time.monotonic() - began > supervisor.DRAIN_MARGIN_S - 1


async def test_pod_says_that_it_is_starting_until_all_workers_are_ready() -> None:
    """Health answers from the first moment, readiness only when it is true."""
    async with running_pod(worker="mute") as pod:
        port = (await pod.logged("admin_listening"))["port"]
        response = await get(("127.0.0.1", port), "/readyz")

        assert response.status == 503
        assert "starting" in response.json()["reasons"]
        assert (await get(("127.0.0.1", port), "/healthz")).status == 200
