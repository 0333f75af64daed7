"""Startup, liveness and readiness of a real supervisor, each with its own reasons."""

from __future__ import annotations

import os
import signal

from tests.harness.http import get
from tests.integration.supervisor.pod import Pod, eventually, running_pod


async def answers(pod: Pod) -> list[tuple[int, list[str]]]:
    """What the three probes say, as status and reasons."""
    paths = ("/startupz", "/livez", "/readyz")
    said = [await pod.ask(path) for path in paths]
    return [(answer.status, answer.json()["reasons"]) for answer in said]


async def test_pod_that_never_gets_ready_says_what_it_waits_for() -> None:
    """A startup probe that gives up leaves the reason in the events of the pod."""
    async with running_pod(worker="mute") as pod:
        admin = ("127.0.0.1", (await pod.logged("admin_listening"))["port"])
        await pod.logged("child_started", 3)
        started = await get(admin, "/startupz")
        live = await get(admin, "/livez")

        assert started.status == 503
        assert started.json()["started"] is False
        waiting = {"worker_1_starting", "worker_2_starting"}
        assert waiting <= set(started.json()["reasons"])
        assert (live.status, live.json()) == (200, {"live": True, "reasons": []})


async def test_pod_that_serves_passes_all_three() -> None:
    """And says so in words of its own."""
    async with running_pod() as pod:
        assert await answers(pod) == [(200, []), (200, []), (200, [])]
        assert (await pod.ask("/startupz")).json()["started"] is True
        assert (await pod.ask("/readyz")).json()["ready"] is True
        assert await pod.metric("broker_ready") == 1
        assert await pod.metric("broker_draining") == 0


async def test_pod_without_a_ready_worker_is_started_and_live_and_not_ready() -> None:
    """Its workers are started again: a new pod would take longer."""
    async with running_pod(worker="once") as pod:
        await eventually(lambda: has_counted(pod))
        for number in (1, 2):
            os.kill((await pod.child(f"worker_{number}"))["pid"], signal.SIGKILL)
        await pod.logged("child_ended", 2)
        started, live, (status, reasons) = await answers(pod)

        assert (started, live) == ((200, []), (200, []))
        assert status == 503
        assert reasons[0] == "no_worker_ready"
        assert await pod.metric("broker_ready") == 0


async def has_counted(pod: Pod) -> bool:
    """Whether both workers have turned a few times: they do not get ready again."""
    return await pod.metric("broker_events_delivered_total") >= 40


async def test_draining_pod_is_live_and_not_ready() -> None:
    """Nobody may kill it for that: its clients are being moved."""
    async with running_pod({"drain_delay_s": 30}) as pod:
        await eventually(pod.is_ready)
        pod.signal(signal.SIGTERM)
        await pod.logged("draining")

        assert await answers(pod) == [(200, []), (200, []), (503, ["draining"])]
        assert await pod.metric("broker_draining") == 1
        assert await pod.metric("broker_ready") == 0
