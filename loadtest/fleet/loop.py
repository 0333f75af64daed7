"""The loop of a fleet process: epoll, one read per ready socket, then the commands.

Commands: ``connect`` (answered when all have joined), ``window`` (latencies begin
anew), ``report``, ``stall`` and ``wake`` a group, ``behind`` (how many of a group have
not seen an ordinal), ``cut`` everything.
"""

from __future__ import annotations

import errno
import select
import time
from typing import Any

import msgspec

from loadtest.command import Command, CommandPipe
from loadtest.counters import DELIVERED, LOST, OPEN
from loadtest.fleet import wire
from loadtest.fleet.account import Account, Books
from loadtest.fleet.client import Client
from loadtest.fleet.dialects import SUBSCRIBED, Dialect
from loadtest.fleet.dialer import Dialer
from loadtest.fleet.tally import PREFIX_BYTES, Tally

CHUNK_BYTES = 256 * 1024
SAMPLES_PER_S = 25_000
"""Chunks per second whose latencies are taken; above it, every n-th chunk."""
_EMPTY_PONG = wire.masked_frame(wire.PONG, b"")


class FleetLoop:
    """All clients of this process. *row* is where the controller reads its counters."""

    def __init__(self, pipe: CommandPipe, row: memoryview[int]) -> None:
        self._pipe = pipe
        self._row = row
        self._epoll = select.epoll()
        self._epoll.register(pipe.fd, select.EPOLLIN)
        self._clients: dict[int, Client] = {}
        self._tally = Tally()
        self._books = Books()
        self._dialer: Dialer | None = None
        self._lost = 0
        self._open = 0
        self._chunks_seen = 0
        self._next_stride_ns = 0
        self._buffer = bytearray(PREFIX_BYTES + CHUNK_BYTES)
        self._room = memoryview(self._buffer)[PREFIX_BYTES:]

    def run(self) -> None:
        """Serve until the controller is gone."""
        try:
            while True:
                self.do_work(0.001 if self._dialer else 0.05)
        except EOFError:
            self.cut()

    def do_work(self, timeout_s: float) -> int:
        """Read once from every ready socket; how many there were.

        Raises:
            EOFError: The controller is gone.
        """
        ready = self._epoll.poll(timeout_s, 512)
        clients = self._clients
        for fd, _ in ready:
            client = clients.get(fd)
            if client is None:
                self._handle_commands()
                continue
            try:
                client.handler(client)
            except BlockingIOError:
                pass
            except OSError as error:
                code = error.errno or 0
                self._drop(client, errno.errorcode.get(code, str(error)))
        row = self._row
        row[DELIVERED] = self._tally.delivered
        row[OPEN] = self._open
        row[LOST] = self._lost
        if self._dialer is not None:
            self._dial(self._dialer)
        if time.monotonic_ns() > self._next_stride_ns:
            self._set_stride()
        return len(ready)

    def _set_stride(self) -> None:
        """Every quarter of a second: keep the samples within the budget."""
        tally = self._tally
        chunks, self._chunks_seen = tally.chunks - self._chunks_seen, tally.chunks
        tally.stride = max(1, -(-chunks * 4 // SAMPLES_PER_S))
        self._next_stride_ns = time.monotonic_ns() + 250_000_000

    # Connecting

    def _dial(self, dialer: Dialer) -> None:
        for _ in range(dialer.due(time.monotonic_ns())):
            self._begin(dialer)
        now_ns = time.monotonic_ns()
        if dialer.finished(now_ns):
            self._dialer = None
            self._pipe.answer(**dialer.result(now_ns))

    def _begin(self, dialer: Dialer) -> None:
        spec = dialer.waiting.popleft()
        account = None
        by_frame = dialer.dialect is not Dialect.NATS and not spec.sessions
        if by_frame and dialer.begun < dialer.sampled:
            account = Account(self._books, spec.ordinal)
        client = Client(dialer.dialect, spec, dialer.group, account)
        source = dialer.sources[dialer.begun % len(dialer.sources)]
        dialer.begun += 1
        try:
            client.connect(source, dialer.port, time.monotonic_ns())
        except OSError as error:
            client.cut()
            dialer.failed(str(error))
            return
        client.handler = self._handle_connected
        self._clients[client.fileno()] = client
        self._epoll.register(client.fileno(), select.EPOLLOUT)

    def _handle_connected(self, client: Client) -> None:
        client.request()
        client.handler = self._handle_upgrade
        self._epoll.modify(client.fileno(), select.EPOLLIN)

    def _handle_upgrade(self, client: Client) -> None:
        part = client.socket.recv(65536)
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "closed before the upgrade")
        client.head += part
        head, separator, rest = client.head.partition(b"\r\n\r\n")
        if not separator:
            return
        status = wire.status_of(head)
        if status != 101:
            raise OSError(f"HTTP {status}")
        now_ns = time.monotonic_ns()
        if self._dialer is not None:
            self._dialer.upgraded(client.started_ns, now_ns)
        client.head = b""
        client.greet()
        client.handler = self._handle_carefully
        if not client.dialect.joined:
            self._join(client)
        self._room[: len(rest)] = rest
        self._consume(client, PREFIX_BYTES + len(rest))

    def _join(self, client: Client) -> None:
        client.joined = True
        self._open += 1
        if client.account is None:
            client.handler = self._handle_live
        if self._dialer is not None:
            self._dialer.joined(client.started_ns, time.monotonic_ns())

    # Reading

    def _receive(self, client: Client) -> int:
        received = client.socket.recv_into(self._room)
        if not received:
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        return PREFIX_BYTES + received

    def _handle_carefully(self, client: Client) -> None:
        self._consume(client, self._receive(client))

    def _handle_live(self, client: Client) -> None:
        end = self._receive(client)
        now_ns = time.monotonic_ns()
        buffer = self._buffer
        self._tally.take(client, buffer, end, now_ns, client.checked)
        # A ping is 89 00. In a frame of JSON the byte 89 can only be half a length:
        # a pong too many does no harm.
        if buffer.find(0x89, PREFIX_BYTES, end) >= 0:
            client.send(_EMPTY_PONG)

    def _consume(self, client: Client, end: int) -> None:
        """Take received bytes of a client that is joining or followed by frame."""
        now_ns = time.monotonic_ns()
        if client.account is not None:
            data = bytes(self._buffer[PREFIX_BYTES:end])
            self._take_frames(client, client.account, data, now_ns)
            return
        tail_bytes = len(client.tail)
        self._tally.take(client, self._buffer, end, now_ns, client.checked)
        if not client.joined and self._has_joined(client, tail_bytes, end):
            self._join(client)

    def _has_joined(self, client: Client, tail_bytes: int, end: int) -> bool:
        buffer = self._buffer
        if client.spec.sessions:
            # From where a needle that ends in the new bytes can begin.
            start = PREFIX_BYTES - min(tail_bytes, len(SUBSCRIBED) - 1)
            client.subscribe_next(buffer.count(SUBSCRIBED, start, end))
            return client.subscribed
        start = PREFIX_BYTES - tail_bytes
        return any(buffer.find(word, start, end) >= 0 for word in client.dialect.joined)

    def _take_frames(
        self, client: Client, account: Account, data: bytes, now_ns: int
    ) -> None:
        frames, client.head = wire.split_frames(client.head + data)
        tally = self._tally
        for opcode, frame in frames:
            if opcode == wire.TEXT:
                published_ns = account.take(frame)
                if published_ns is not None:
                    tally.delivered += 1
                    tally.record(now_ns, published_ns, 1)
            elif opcode == wire.PING:
                client.send(wire.masked_frame(wire.PONG, frame))
        client.ordinal = account.ordinal
        if account.joined and not client.joined:
            self._join(client)

    def _drop(self, client: Client, why: str) -> None:
        del self._clients[client.fileno()]
        client.cut()
        if client.joined:
            self._open -= 1
            self._lost += 1
        elif self._dialer is not None:
            self._dialer.failed(why)

    # Commands

    def _handle_commands(self) -> None:
        for command in self._pipe.read():
            match command["do"]:
                case "connect":
                    self._dialer = Dialer.from_command(command)
                case "window":
                    self._tally.latencies = {}
                    self._tally.window_ns = time.monotonic_ns()
                    self._pipe.answer(done=True)
                case "report":
                    self._pipe.answer(**self._report())
                case "cut":
                    self.cut()
                    self._pipe.answer(done=True)
                case _:
                    self._handle_group(command)

    def _handle_group(self, command: Command) -> None:
        group = [c for c in self._clients.values() if c.group == command["group"]]
        match command["do"]:
            case "stall":
                for client in group:
                    self._epoll.unregister(client.fileno())
            case "wake":
                for client in group:
                    self._epoll.register(client.fileno(), select.EPOLLIN)
            case "behind":
                group = [c for c in group if c.ordinal < command["ordinal"]]
            case unknown:
                raise ValueError(f"unknown command {unknown}")
        self._pipe.answer(clients=len(group))

    def _report(self) -> dict[str, Any]:
        tally = self._tally
        return {
            "delivered": tally.delivered,
            "missing": tally.missing,
            "surplus": tally.surplus,
            "chunks": tally.chunks,
            "latencies": tally.latencies,
            "open": self._open,
            "lost": self._lost,
            "books": msgspec.to_builtins(self._books),
        }

    def cut(self) -> None:
        """Reset every connection, and forget what was counted."""
        for client in self._clients.values():
            client.cut()
        self._clients.clear()
        self._tally = Tally()
        self._chunks_seen = 0
        self._books = Books()
        self._lost = 0
        self._open = 0
