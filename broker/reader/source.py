"""Keeps the reader's connection to Redis and turns the loop that reads from it."""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from broker.config import Settings
from broker.errors import ServerUnsuitable, StoreError, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.reader.blocking import BlockingDoorbell
from broker.reader.chain import Chains
from broker.reader.opening import Openings
from broker.reader.pace import ReconnectPace
from broker.reader.pump import Pump
from broker.reader.together import run_until_one_fails
from broker.reader.verifying import judge, questions
from broker.reader.watches import Watches, in_parts
from broker.ring import board as b
from broker.store.address import Address
from broker.store.connection import Connection
from broker.store.server import (
    ServerIdentity,
    TrackingLoad,
    TrackingUnavailable,
    identify,
    is_master,
    start_tracking,
    tracking_load,
)

log = structlog.get_logger(__name__)

READER_ROW = 0
TICK_S = 0.25
LOOK_S = 1.0
ROLE_CHECK_S = 2.0
"""How often the server is asked whether it is the primary: to a server that hangs the
reader listens this long, and its command time-out."""
TABLE_CHECK_S = 60.0
TABLE_WARN, TABLE_FULL = 0.5, 0.9
RECOVERY_KEYS_PER_S = 20_000
PAUSE_STEP_S = 0.005
PAUSE_MAX_S = 1.0
FRESH_S = 1.0
COMPLAINT_EVERY_S = 10.0
VERIFY_ENTRIES = 3
"""What a check of a stream brings: two entries of the XINFO, one at the cursor."""


class Source:
    """Connects, reads until the connection is lost, and starts over.

    Nothing is retried inside a connection: a new one begins with every key dirty.
    """

    def __init__(
        self,
        settings: Settings,
        pod: str,
        watches: Watches,
        chains: Chains,
        openings: Openings,
        pump: Pump,
        board: b.Board,
        values: Row,
        ring_size: int,
    ) -> None:
        self._settings = settings
        self._name = f"broker-reader-{pod}"
        self._watches = watches
        self._chains = chains
        self._openings = openings
        self._pump = pump
        self._board = board
        self._values = values
        self._half_ring = ring_size // 2
        self._pace = ReconnectPace()
        self._work = asyncio.Event()
        self._identity: ServerIdentity | None = None
        self._blocking: BlockingDoorbell | None = None
        self._recovering = 0
        self._complained_at = 0.0
        self._storm_noted_at = 0.0
        openings.on_work = self._work.set

    async def run(self) -> None:
        """Read for ever."""
        while True:
            try:
                await self._read_until_lost()
            except ServerUnsuitable:
                raise
            except StoreError as error:
                self._complain(error)
            self._say_up(False)
            self._values[catalog.RECONNECTS["reader"]] += 1
            await asyncio.sleep(self._pace.delay_s(len(self._watches)))

    def _where(self) -> str | Address:
        return self._settings.redis_url.get_secret_value()

    async def _connect(self) -> Connection:
        return await Connection.open(self._where(), client_name=self._name)

    async def _read_until_lost(self) -> None:
        connection = await Connection.open(
            self._where(),
            client_name=self._name,
            on_push=self._handle_push,
            on_lost=lambda _: self._work.set(),
        )
        try:
            identity = await self._identify(connection)
            tracks = await self._try_tracking(connection)
            if self._identity is not None and identity != self._identity:
                log.warning("server_changed", was=self._identity.run_id[:8])
                await self._verify_all(connection)
            self._identity = identity
            self._say_identity(identity)
            self._pace.connected(len(self._watches))
            self._recovering = len(self._watches)
            self._watches.mark_all_dirty()
            self._say_up(True)
            log.info("reading", server=identity.flavor, version=identity.version)
            parts = [self._turn(connection), self._tend(connection, tracks)]
            if not tracks:
                parts.append(self._block())
            await run_until_one_fails(*parts)
        finally:
            connection.close()
            # Of a batch that was cut off, some answers may have been used.
            self._pump.finish_batch()

    async def _identify(self, connection: Connection) -> ServerIdentity:
        return await identify(connection)

    def _say_identity(self, identity: ServerIdentity) -> None:
        self._board.set(READER_ROW, b.REDIS_IDENTITY, identity.number)

    def _self_test_key(self) -> bytes | None:
        return None

    async def _try_tracking(self, connection: Connection) -> bool:
        if self._settings.reader_mode == "blocking":
            return False
        second = await self._connect()
        try:
            await start_tracking(connection, second, self._self_test_key())
        except TrackingUnavailable as error:
            if self._settings.reader_mode == "tracking":
                raise
            log.warning("tracking_unavailable", why=str(error))
            return False
        finally:
            second.close()
        return True

    async def _block(self) -> None:
        self._blocking = BlockingDoorbell(self._watches, self._connect, self._work.set)
        try:
            await self._blocking.run()
        finally:
            self._blocking = None

    def _handle_push(self, push: list[object]) -> None:
        if push[0] != b"invalidate":
            return
        keys = push[1]
        self._values[catalog.RINGS.slot] += 1
        if isinstance(keys, list):
            for key in keys:
                self._watches.ring(key)
        else:  # FLUSHALL or FLUSHDB: every key.
            self._watches.mark_all_dirty()
        self._work.set()

    async def _turn(self, connection: Connection) -> None:
        patience_s = 0.05
        while True:
            try:
                done = await self._openings.do_work(connection)
                done += await self._pump.do_work(connection)
                patience_s = 0.05
            except StoreUnavailable:
                if connection.closed:
                    raise
                await self._hold_back(0)  # Others of its batch were read.
                await asyncio.sleep(patience_s * random.uniform(0.5, 1.0))  # noqa: S311
                patience_s = min(patience_s * 2, 2.0)
                continue
            if self._blocking is not None:
                self._blocking.note_read()
            await self._hold_back(done)
            if connection.closed:
                raise StoreUnavailable("the connection is lost")
            if not done:
                self._work.clear()
                if not self._watches.work:
                    await self._work.wait()

    async def _hold_back(self, done: int) -> None:
        """Pace the catching up after an outage, and wait for workers that are slow."""
        if self._recovering > 0:
            self._recovering -= done
            await asyncio.sleep(done / RECOVERY_KEYS_PER_S)
        paused = 0.0
        while paused < PAUSE_MAX_S and self._somebody_is_behind():
            await asyncio.sleep(PAUSE_STEP_S)
            paused += PAUSE_STEP_S
        if paused:
            self._values[catalog.PAUSED_SECONDS.slot] += paused

    def _somebody_is_behind(self) -> bool:
        board, head = self._board, self._chains.head
        for row in range(1, board.worker_count + 1):
            behind = head - board.get(row, b.CURSOR)
            if (
                behind > self._half_ring
                and board.get(row, b.STATE) != b.STARTING
                and board.silent_s(row) < FRESH_S
            ):
                return True
        return False

    async def _tend(self, connection: Connection, tracks: bool) -> None:
        self._pump.rings_are_trusted = tracks
        self._values[catalog.TRACKING.slot] = tracks
        is_wanted = self._settings.reader_mode != "blocking"
        self._values[catalog.TRACKING_WANTED.slot] = is_wanted
        sweep_s = self._settings.sweep_s
        last, next_role, next_table, next_look = time.monotonic(), 0.0, 0.0, 0.0
        while True:
            now = time.monotonic()
            if now >= next_role:
                next_role = now + ROLE_CHECK_S
                await self._check_role(connection)
            if tracks and now >= next_table:
                next_table = now + TABLE_CHECK_S
                await self._check_table(connection)
            if now >= next_look:
                next_look = now + LOOK_S
                self._look()
            self._watches.sweep(now - last)
            self._note_storm()
            self._watches.wake_rested()
            last = now
            if self._watches.work:
                self._work.set()
            await asyncio.sleep(min(TICK_S, sweep_s / 2))

    def _look(self) -> None:
        """What passes over all watches: milliseconds, where there are many."""
        self._watches.forget_idle()
        self._values[catalog.WATCHED.slot] = len(self._watches)
        self._values[catalog.QUARANTINED.slot] = self._watches.quarantined
        self._board.set(READER_ROW, b.WATCHED, len(self._watches))
        self._board.set(READER_ROW, b.WATCHES_REFUSED, int(self._openings.full))

    async def _check_role(self, connection: Connection) -> None:
        # The liveness check, too: without an answer the connection ends itself.
        if not await is_master(connection):
            raise StoreUnavailable("the server is not the primary any more")

    async def _check_table(self, connection: Connection) -> None:
        load = await tracking_load(connection)
        values = self._values
        values[catalog.TRACKING_KEYS.slot] = load.keys
        values[catalog.TRACKING_ITEMS.slot] = load.items
        values[catalog.TRACKING_LIMIT.slot] = load.limit
        self._judge_load(load)

    def _note_storm(self) -> None:
        """Say that streams wait because too many of them ring for nothing."""
        held, now = self._watches.held, time.monotonic()
        if held and now - self._storm_noted_at >= COMPLAINT_EVERY_S:
            self._storm_noted_at = now
            log.warning(
                "rings_for_nothing",
                waiting=held,
                advice="raise tracking-table-max-keys; pipeline XADD and EXPIRE",
            )

    def _judge_load(self, load: TrackingLoad) -> None:
        share = load.keys / load.limit if load.limit else 0.0
        if share > TABLE_WARN:
            log.warning("tracking_table_filling", keys=load.keys, limit=load.limit)
        self._openings.refusing = share > TABLE_FULL

    async def _verify_all(self, connection: Connection) -> None:
        """Ask of every stream whether it still is the one that was read."""
        every = [watched for watched in self._watches if watched.channel]
        for part in in_parts(every, VERIFY_ENTRIES):
            replies = await connection.send(*questions(part))
            for index, watched in enumerate(part):
                info, there = replies[2 * index : 2 * index + 2]
                if judge(watched, info, there, self._chains):
                    self._values[catalog.RESETS.slot] += 1
            self._chains.commit()

    def _say_up(self, up: bool) -> None:
        self._board.set(READER_ROW, b.REDIS_UP, int(up))
        if up:
            self._board.set(READER_ROW, b.REDIS_UP_EVER, 1)
        self._values[catalog.REDIS_UP.slot] = up

    def _complain(self, error: StoreError) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAINT_EVERY_S:
            self._complained_at = now
            log.warning("redis_unavailable", why=str(error))
