"""The supervisor: one verb per concern, done in turn until it is told to stop.

It waits for children to end and for signals; only the board, which is plain memory,
has to be looked at by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from broker.config import Settings
from broker.control.authenticator import Authenticator
from broker.metrics import catalog
from broker.process import ExitStatus
from broker.ring import board as b
from broker.store.keys import event_key_pattern
from broker.supervisor.admin import AdminServer
from broker.supervisor.api.server import Api
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import Health
from broker.supervisor.probe import ProbeLog, Prober, probe_session
from broker.supervisor.resources import (
    READER_ROW,
    Resources,
    raise_descriptor_limit,
)
from broker.supervisor.signals import SignalQueue
from broker.supervisor.status import PodStatus

log = structlog.get_logger(__name__)

STARTING_TICK_S = 0.05
TICK_S = 1.0
DRAIN_MARGIN_S = 10.0
"""Time beyond the drain settings after which workers are killed."""

READER_STOP_S = 5.0
KILLED_S = 5.0
"""Time in which the kernel should end a process that got SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the pod listens; real ports, also where the setting was 0."""

    public_host: str
    public_port: int
    admin_host: str
    admin_port: int

    @property
    def public(self) -> str:
        """A URL for clients on this machine."""
        return _url(self.public_host, self.public_port)

    @property
    def admin(self) -> str:
        """A URL for operators on this machine."""
        return _url(self.admin_host, self.admin_port)


class Supervisor:
    """Starts the reader and the workers, keeps them alive, and takes them down.

    One per process, in the main thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        announce: Callable[[Addresses], None] | None = None,
        commands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Make what the processes share, and start nothing yet.

        Args:
            settings: The effective settings.
            announce: Called once, when all workers are ready for the first time.
            commands: What to run for a role instead of its own module.

        Raises:
            ConfigError: The public address cannot be used or is taken, or keys or
                secrets of ``BROKER_AUTH`` cannot be used.
        """
        self._settings = settings
        self._announce = announce
        authenticator = Authenticator(settings)
        self._resources = resources = Resources(settings)
        self._row = resources.supervisor_row
        self._values = resources.slots.row(self._row)
        self._probes = ProbeLog()
        self._health = Health(resources.board, self._probes, settings.hang_s)
        self._api = Api(
            settings,
            authenticator,
            resources.pod,
            self._values,
            lambda: resources.board.get(READER_ROW, b.REDIS_IDENTITY),
        )
        self._wake = asyncio.Event()
        self._signals = SignalQueue(self._wake)
        self._children = [
            self._make_child(row, commands or {}) for row in range(self._row)
        ]
        self._reader, *self._workers = self._children
        self._addresses: Addresses | None = None
        self._was_ready = False
        self._status = ExitStatus.DONE
        self._is_stopping = False
        self._is_hurried = False
        self._workers_told = False
        self._reader_told = False
        self._deadline = math.inf

    def _make_child(
        self, row: int, commands: Mapping[str, Sequence[str]]
    ) -> ChildProcess:
        boot = self._resources.boot(row)
        return ChildProcess(boot, self._wake.set, commands.get(boot.role))

    # --- The life of the pod ----------------------------------------------------

    async def run(self) -> int:
        """Run the pod until it is told to stop.

        Returns:
            The exit status for this process: that of a child which says that
            starting again is of no use, else 0.

        Raises:
            ConfigError: The admin address cannot be used or is taken.
        """
        settings = self._settings
        status = PodStatus(self._resources, self._health, self._children)
        host, port = settings.admin_host, settings.admin_port
        admin = AdminServer(status, host, port, self._api)
        prober: asyncio.Task[None] | None = None
        raise_descriptor_limit()
        self._signals.install()
        try:
            self._addresses = Addresses(
                public_host=self._resources.public_host,
                public_port=self._resources.public_port,
                admin_host=host,
                admin_port=await admin.start(),
            )
            self._api.start()
            log.info("admin_listening", port=self._addresses.admin_port)
            prober = self._start_prober()
            await self._turn_until(lambda: self._is_stopping)
            await self._drain()
        finally:
            if prober is not None:
                prober.cancel()
                await asyncio.wait([prober])
            for child in self._children:
                child.kill_and_wait()
            await admin.close()
            await self._api.close()
            self._signals.remove()
            self._resources.close()
        log.info("stopped", status=int(self._status))
        return self._status

    async def _drain(self) -> None:
        settings = self._settings
        now = time.monotonic()
        log.info("draining", delay_s=settings.drain_delay_s, drain_s=settings.drain_s)

        # 1. Readiness fails from here on: the load balancer gets time to notice.
        self._resources.board.set(self._row, b.STATE, b.DRAINING)
        self._deadline = now + settings.drain_delay_s
        await self._turn_until(lambda: self._is_hurried)

        # 2. Workers: refuse newcomers, spread the closes over the window, leave. The
        #    reader goes on, so whoever is still connected misses nothing.
        self._workers_told = True
        total_s = settings.drain_delay_s + settings.drain_s + DRAIN_MARGIN_S
        self._deadline = now + total_s
        if self._is_hurried:
            self._shorten_deadline()
        await self._end(self._workers)

        # 3. The reader: nobody is left to read for.
        self._reader_told = True
        self._deadline = time.monotonic() + READER_STOP_S
        await self._end([self._reader])

    async def _end(self, children: Sequence[ChildProcess]) -> None:
        def are_gone() -> bool:
            return all(child.pid is None for child in children)

        for child in children:
            child.send(signal.SIGTERM)
            if self._is_hurried and child is not self._reader:
                child.send(signal.SIGUSR1)
        await self._turn_until(are_gone)
        if are_gone():
            return
        for child in children:
            if child.pid is not None:
                log.warning("killed_at_deadline", child=child.name, pid=child.pid)
                child.send(signal.SIGKILL)
        self._deadline = time.monotonic() + KILLED_S
        await self._turn_until(are_gone)

    async def _turn_until(self, is_done: Callable[[], bool]) -> None:
        """Take steps until *is_done* or until the deadline has passed."""
        while True:
            self._wake.clear()
            self.step()
            if is_done() or time.monotonic() >= self._deadline:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        """How long nothing needs to be done unless something happens."""
        tick_s = min(TICK_S, self._settings.hang_s / 4)
        if not self._was_ready:
            tick_s = STARTING_TICK_S
        events = [
            child.next_event_at
            for child in self._children
            if child.pid is not None or self._is_wanted(child)
        ]
        now = time.monotonic()
        due = [at for at in (*events, self._deadline, now + tick_s) if at is not None]
        return max(min(due) - now, 0.01)

    # --- The verbs of a step ----------------------------------------------------

    def step(self) -> None:
        """Do everything that is due now."""
        self._resources.board.beat(self._row)
        self.handle_signals()
        self._health.look()
        self.reap_children()
        self.kill_hung()
        self.kill_deaf()
        self.spawn_missing()
        self.announce_readiness()

    def handle_signals(self) -> None:
        """Stop at the first SIGTERM or SIGINT, hurry at every further one."""
        for number in self._signals.take():
            log.info("signal", signal=number.name)
            if self._is_stopping:
                self._hurry()
            self._is_stopping = True

    def reap_children(self) -> None:
        """Collect who has ended, and wipe what it said about the present."""
        for child in self._children:
            pid, was_hung = child.pid, child.is_being_killed
            status = child.reap()
            if status is None:
                continue
            self._resources.board.clear(child.index)
            self._resources.slots.clear_gauges(child.index)
            self._log_end(child.name, pid, status, was_hung)
            if status == ExitStatus.UNUSABLE:
                self._give_up(ExitStatus.UNUSABLE)

    def kill_hung(self) -> None:
        """End processes whose event loop stands still."""
        for child in self._health.choose_hung(self._children):
            silent_s = round(self._health.silent_s(child), 1)
            log.error("child_hung", child=child.name, pid=child.pid, silent_s=silent_s)
            self._values[catalog.HUNG_KILLS.slots[child.role]] += 1
            child.abort()
        for child in self._children:
            child.kill_overdue()

    def kill_deaf(self) -> None:
        """End who no longer hears what Redis takes: a new process may."""
        if self._is_stopping:
            return
        for child in self._health.choose_deaf(self._children):
            log.error("child_deaf", child=child.name, pid=child.pid)
            self._values[catalog.DEAF_KILLS[child.role]] += 1
            child.abort()

    def spawn_missing(self) -> None:
        """Start who is missing and due; never before the one before was reaped."""
        now = time.monotonic()
        for child in self._children:
            if child.pid is None and self._is_wanted(child) and now >= child.due_at:
                self._spawn(child)

    def announce_readiness(self) -> None:
        """Tell once that clients can be served: processes run and Redis is there."""
        if self._was_ready or self._addresses is None or self._is_stopping:
            return
        if not all(self._health.is_ready(worker.index) for worker in self._workers):
            return
        if not self._resources.board.get(self._reader.index, b.REDIS_UP_EVER):
            return
        self._was_ready = True
        self._resources.board.set(self._row, b.STATE, b.READY)
        log.info("ready", public=self._addresses.public, admin=self._addresses.admin)
        if self._announce is not None:
            self._announce(self._addresses)

    # --- Details ----------------------------------------------------------------

    def _is_wanted(self, child: ChildProcess) -> bool:
        if not self._is_stopping:
            return True
        # While workers drain their clients still read, and for that they need it.
        # Not one that has just said that it is of no use.
        is_useful = self._status is ExitStatus.DONE and not self._reader_told
        has_readers = any(worker.pid is not None for worker in self._workers)
        return child is self._reader and is_useful and has_readers

    def _spawn(self, child: ChildProcess) -> None:
        try:
            child.spawn()
        except OSError as error:
            child.postpone()
            log.exception("child_not_started", child=child.name, error=str(error))
            return
        self._health.expect(child.index)
        if child.starts > 1:
            self._values[catalog.RESTARTS.slots[child.role]] += 1
        log.info("child_started", child=child.name, pid=child.pid, start=child.starts)

    def _log_end(self, name: str, pid: int | None, status: int, was_hung: bool) -> None:
        if self._is_stopping and status in (ExitStatus.DONE, -signal.SIGTERM):
            log.info("child_ended", child=name, pid=pid, status=status)
            return
        how: dict[str, object] = {"status": status}
        if status < 0:
            how = {"signal": _signal_name(-status)}
        if status == -signal.SIGKILL and not (was_hung or self._is_stopping):
            how["hint"] = "if nobody sent it, memory ran out"
        log.error("child_ended", child=name, pid=pid, **how)

    def _hurry(self) -> None:
        self._is_hurried = True
        if self._workers_told:
            self._shorten_deadline()
            for worker in self._workers:
                worker.send(signal.SIGUSR1)

    def _shorten_deadline(self) -> None:
        soon = time.monotonic() + DRAIN_MARGIN_S
        self._deadline = min(self._deadline, soon)

    def _give_up(self, status: ExitStatus) -> None:
        self._status = status
        self._is_stopping = self._is_hurried = True

    def _start_prober(self) -> asyncio.Task[None]:
        keys = event_key_pattern(self._settings.event_stream)
        key = keys.key(probe_session(self._resources.pod))
        url = self._settings.redis_url.get_secret_value()
        prober = Prober(url, key, self._probes)
        task = asyncio.create_task(prober.run(), name="prober")
        task.add_done_callback(self._handle_prober_end)
        return task

    def _handle_prober_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("probe_failed", exc_info=error)
        self._give_up(ExitStatus.FAILED)
        self._wake.set()


def _url(host: str, port: int) -> str:
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  not bound here
    shown = wildcards.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal has no name.
        return str(number)
