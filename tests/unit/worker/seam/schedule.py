"""Turns the bytes of a schedule into steps, in any order, and brings it to rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.model import FIRST_ID, U64_MAX, Position, StreamId
from broker.protocols.formats import NATIVE, SSE
from broker.worker.channels import Overflow, Start, StartAt, State
from tests.fakes import FakeClock
from tests.unit.worker.seam.account import Account, Broken
from tests.unit.worker.seam.pod import (
    KEYS,
    SWEEP_S,
    Bell,
    Client,
    Pipe,
    ReaderProcess,
    Shared,
    WorkerProcess,
)
from tests.unit.worker.seam.streams import ModelRedis

SESSIONS = ("a", "b")
CLIENTS_MAX = 8
REST_ROUNDS = 400
SWEEP_ROUNDS = 20

FORMATS = (NATIVE, SSE)

Step = Callable[["Schedule", int], None]


class Schedule:
    """A pod, a Redis and clients under a scheduler that does whatever it is told.

    Every step takes one byte to choose by. A step that is impossible now does nothing.

    Args:
        shared: The memory that outlives the processes.
        clock: Everybody's.
        exact: Nothing is deleted from the middle of a stream, and the accounts are
            held to the numbers; else to order and completeness alone.
        rising: A stream that is deleted and made anew goes on with higher ids.
    """

    def __init__(
        self, shared: Shared, clock: FakeClock, *, exact: bool, rising: bool
    ) -> None:
        self._exact = exact
        shared.clear()
        self.log: list[str] = []
        self._shared = shared
        self._clock = clock
        self._redis = ModelRedis(rising=rising)
        self._bells: list[Bell] = []
        self._lost: set[WorkerProcess] = set()
        self._pipes: list[Pipe] = []
        self._reader = ReaderProcess(shared, self._redis, clock, ())
        self._workers = [WorkerProcess(n, shared, self._redis, clock) for n in (1, 2)]
        self._bells = [worker.bell for worker in self._workers]
        self._restart(0)
        for index in range(len(self._workers)):
            self._link(index)

    def run(self, program: bytes) -> None:
        """Take the steps, then see whether everybody comes to rest at the tip."""
        for code, choice in zip(program[::2], program[1::2], strict=False):
            step = PROGRAM[code % len(PROGRAM)]
            self.log.append(f"{step.__name__.strip('_')} {choice}")
            step(self, choice)
        self.log.append("rest")
        self._come_to_rest()

    def close(self) -> None:
        """End all processes."""
        self._reader.kill()
        for worker in self._workers:
            worker.loop.close()

    # Publishers.

    def _publish(self, choice: int) -> None:
        session, kind = _session(choice), choice >> 2
        for _ in range(1 + (kind & 1)):
            self._add(session, kind >> 1)

    def _add(self, session: str, kind: int) -> None:
        key = KEYS.key(session)
        ordinal = len(self._redis.history(key).now.ids) + 1
        size = (3_000, 40_000, 70_000)[kind - 20] if 20 <= kind <= 22 else 0
        data = b'{"n":%d,"pad":"%b"}' % (ordinal, b"x" * size)
        fields = [b"event", b"e", b"data", data]
        if kind in (16, 17):
            fields += [b"key", b"k%d" % (kind & 1)]
        elif kind == 18:
            fields += [b"transient", b"1"]
        elif kind == 19:
            fields[1] = b""
        self._redis.add(key, fields)

    def _trim(self, choice: int) -> None:
        self._redis.trim(KEYS.key(_session(choice)), choice >> 2 & 7)

    def _delete_entry(self, choice: int) -> None:
        if self._exact:
            return
        self._redis.delete_entry(KEYS.key(_session(choice)), choice >> 2)

    def _delete(self, choice: int) -> None:
        self._redis.delete(KEYS.key(_session(choice)))

    # The reader.

    def _turn_reader(self, choice: int) -> None:
        for _ in range(1 + choice % 6):
            self._reader.step()

    def _serve_reader(self, choice: int) -> None:
        if choice & 1:
            self._reader.connection.execute()
        self._reader.connection.receive()

    def _read(self, choice: int) -> None:
        """A whole read without anything in between."""
        for _ in range(1 + choice % 8):
            self._reader.step()
            while self._reader.connection.execute():
                pass
            while self._reader.connection.receive():
                pass

    def _sweep(self, _choice: int) -> None:
        self._reader.watches.sweep(SWEEP_S)

    def _forget(self, _choice: int) -> None:
        self._reader.watches.forget_idle()

    def _flood(self, choice: int) -> None:
        self._reader.flood(9 if choice & 3 else 4)

    def _reconnect(self, _choice: int) -> None:
        self._reader.connection.lose()
        self._reader.connect()

    def _restart(self, _choice: int) -> None:
        """Kill the reader and start another one; the workers notice later."""
        self._reader.kill()
        self._reader = ReaderProcess(
            self._shared, self._redis, self._clock, self._bells
        )
        self._pipes.clear()
        self._lost = set(self._workers)

    def _refuse(self, choice: int) -> None:
        self._reader.openings.refusing = bool(choice & 1)

    # The way between them.

    def _request(self, choice: int) -> None:
        if self._pipes:
            self._pipes[choice % len(self._pipes)].deliver()

    def _unlink(self, choice: int) -> None:
        worker = self._worker(choice)
        worker.lose_link()
        self._lost.discard(worker)

    def _link(self, choice: int) -> None:
        worker = self._worker(choice)
        if worker in self._lost:
            self._unlink(choice)
        if not worker.linked:
            self._pipes.append(worker.connect_link(self._reader))

    # The workers.

    def _worker(self, choice: int) -> WorkerProcess:
        return self._workers[choice % len(self._workers)]

    def _turn_worker(self, choice: int) -> None:
        for _ in range(1 + (choice >> 1) % 4):
            self._worker(choice).step()

    def _serve_worker(self, choice: int) -> None:
        store = self._worker(choice).store
        if choice & 2:
            store.execute()
        if choice & 4:
            store.receive()

    def _lose_store(self, choice: int) -> None:
        self._worker(choice).lose_store()

    def _wait(self, choice: int) -> None:
        self._clock.advance(0.1 * (choice % 8))

    # Clients.

    def _connect(self, choice: int) -> None:
        worker = self._worker(choice)
        if len(worker.clients) < CLIENTS_MAX:
            client = Client(worker, FORMATS[choice >> 1 & 1])
            session = _session(choice >> 2)
            client.session = session if choice & 16 else ""
            worker.clients.append(client)
            self._open(worker, client, session, choice >> 3)

    def _subscribe(self, choice: int) -> None:
        worker = self._worker(choice)
        client = self._client(choice)
        if client is not None and client in worker.clients:
            self._open(worker, client, SESSIONS[choice & 1], choice >> 3)

    def _crowd(self, choice: int) -> None:
        """Some who are live on one session, of one format."""
        worker = self._worker(choice)
        for _ in range(2 + (choice >> 1 & 1)):
            client = Client(worker, FORMATS[choice >> 2 & 1])
            worker.clients.append(client)
            self._open(worker, client, SESSIONS[0], 0)

    def _open(
        self, worker: WorkerProcess, client: Client, session: str, choice: int
    ) -> None:
        if session in client.subs or client.closing is not None:
            return
        history = self._redis.history(KEYS.key(session))
        overflow = Overflow(choice >> 2 & 3) if choice & 1 else Overflow.LAG
        start = self._start(session, choice)
        account = Account(history, start, overflow, strict=self._exact)
        self.log.append(f"  {client.format.name} {session} {start} {overflow.name}")
        worker.open(client, session, account, overflow)

    def _start(self, session: str, choice: int) -> Start:
        history = self._redis.history(KEYS.key(session))
        lives = [life for life in history.lives if life.ids]
        kind = choice % 8
        if kind < 2 or not lives:
            return Start()
        if kind == 2:
            return Start(at=StartAt.RETAINED)
        if kind == 3:
            return Start(at=StartAt.LAST_N, count=1 + choice % 5)
        life = lives[-1] if choice & 8 or len(lives) < 2 else lives[-2]
        ordinal = 1 + choice * 7 % len(life.ids)
        stream_id = life.ids[-1 if kind == 4 else ordinal - 1]
        if kind == 5 and life is history.now:
            before: StreamId = (stream_id[0] - 1, U64_MAX)
            return Start(at=StartAt.SINCE, position=Position(before))
        seq = life.ordinal(stream_id) if choice & 1 else None
        return Start(at=StartAt.POSITION, position=Position(stream_id, seq))

    def _client(self, choice: int) -> Client | None:
        clients = [client for worker in self._workers for client in worker.clients]
        return clients[choice // 2 % len(clients)] if clients else None

    def _unsubscribe(self, choice: int) -> None:
        client = self._client(choice)
        session = SESSIONS[choice & 1]
        if client is not None and session in client.subs:
            client._worker.end(client, session)

    def _leave(self, choice: int) -> None:
        client = self._client(choice)
        if client is not None:
            client._worker.lose(client)

    def _block(self, choice: int) -> None:
        """Now, or after the next buffer or two."""
        client = self._client(choice)
        if client is not None:
            client.room = choice % 3
            client.blocked = client.blocked or client.room == 0

    def _unblock(self, choice: int) -> None:
        client = self._client(choice)
        if client is not None:
            with client._worker.loop.running():
                client.unblock()

    # The end.

    def _come_to_rest(self) -> None:
        self._reader.openings.refusing = False
        for index in range(len(self._workers)):
            self._link(index)
        self._run_dry()
        unfinished = list(self._unfinished())
        if unfinished:
            raise Broken(f"left behind: {unfinished}")
        for worker in self._workers:
            for client in worker.clients:
                for account in client.accounts.values():
                    account.finish()

    def _run_dry(self) -> None:
        for turn in range(REST_ROUNDS):
            if not self._exact and turn % SWEEP_ROUNDS == SWEEP_ROUNDS - 1:
                # What happened to large entries is seen by the sweep at the latest.
                self._reader.watches.sweep(SWEEP_S)
            self._let_go()
            if not self._move() and not self._pass_time() and not self._sweeps(turn):
                return
        raise Broken(f"no rest: {list(self._unfinished())}")

    def _sweeps(self, turn: int) -> bool:
        return not self._exact and turn < 2 * SWEEP_ROUNDS

    def _let_go(self) -> None:
        for worker in self._workers:
            for client in list(worker.clients):
                if client.closing is not None:
                    worker.lose(client)
                    continue
                with worker.loop.running():
                    client.unblock()
                for session in set(client.accounts) - set(client.subs):
                    del client.accounts[session]  # Refused.

    def _move(self) -> bool:
        moved = False
        for pipe in self._pipes:
            moved |= pipe.deliver()
        reader = self._reader
        moved |= reader.step() | reader.connection.execute()
        moved |= reader.connection.receive()
        for worker in self._workers:
            moved |= bool(worker.step()) | worker.store.execute()
            moved |= worker.store.receive()
        return moved

    def _pass_time(self) -> bool:
        """Let the clock move where somebody waits for it."""
        waiting = any(worker.loop.sleeping for worker in self._workers)
        self._clock.advance(1.0)
        self._reader.watches.wake_rested()
        return waiting or bool(
            self._reader.watches.work or self._reader.watches._resting
        )

    def _unfinished(self) -> Iterator[str]:
        for worker in self._workers:
            for client in worker.clients:
                for session, sub in client.subs.items():
                    tip, now = sub.channel.tip, self._tip(session)
                    if sub.state is not State.LIVE or tip.id != now:
                        yield f"{worker.row}/{session} {sub.state.name} {tip} of {now}"

    def _tip(self, session: str) -> StreamId:
        life = self._redis.history(KEYS.key(session)).now
        return life.ids[-1] if life.ids else FIRST_ID


WEIGHTS: tuple[tuple[int, Step], ...] = (
    (40, Schedule._publish),
    (8, Schedule._trim),
    (3, Schedule._delete_entry),
    (3, Schedule._delete),
    (22, Schedule._turn_reader),
    (18, Schedule._serve_reader),
    (16, Schedule._read),
    (2, Schedule._sweep),
    (5, Schedule._forget),
    (4, Schedule._flood),
    (2, Schedule._reconnect),
    (5, Schedule._restart),
    (1, Schedule._refuse),
    (20, Schedule._request),
    (2, Schedule._unlink),
    (9, Schedule._link),
    (40, Schedule._turn_worker),
    (22, Schedule._serve_worker),
    (1, Schedule._lose_store),
    (4, Schedule._wait),
    (16, Schedule._connect),
    (5, Schedule._crowd),
    (6, Schedule._subscribe),
    (6, Schedule._unsubscribe),
    (4, Schedule._leave),
    (7, Schedule._block),
    (7, Schedule._unblock),
)
"""How often each step comes, of about 256."""

PROGRAM: tuple[Step, ...] = tuple(
    step for weight, step in WEIGHTS for _ in range(weight)
)


def _session(choice: int) -> str:
    """Most of the time the same one: there is more to go wrong in a crowd."""
    return SESSIONS[choice & 3 == 3]
