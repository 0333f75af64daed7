"""A publisher process: events into Redis or NATS at an exact rate.

``python -m loadtest.publisher '{"kind":"redis","port":6379,...}'`` takes the command
``run`` (``rate``, ``seconds``) and answers with what it published when it is done.
``stop`` ends a run early. One raw socket, pipelined; the ordinal of each session goes
on from run to run.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from typing import Any, Protocol

import orjson

from loadtest import payload
from loadtest.command import CommandPipe
from loadtest.counters import PUBLISHED, Counters
from loadtest.pacing import Pace

MOST_PER_BATCH = 2_000
MOST_UNANSWERED = 20_000


class Sink(Protocol):
    """Where events go: one template per session, and the flow of answers."""

    def template(self, session: str) -> bytes:
        """Bytes of one publish command that take ``(time, ordinal)``."""
        ...

    def sent(self, count: int) -> bytes:
        """Count *count* events as sent; bytes to send after them."""
        ...

    def received(self, answer: bytes) -> None:
        """Count what the server answered."""
        ...

    @property
    def unanswered(self) -> int:
        """Events that the server has not taken yet."""
        ...


def encode_command(*words: bytes) -> bytes:
    """One Redis command as RESP."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class RedisSink:
    """``XADD key MAXLEN ~ n * event token_stream data {...}``."""

    def __init__(self, key_pattern: str, max_length: int) -> None:
        self._key_pattern = key_pattern
        self._max_length = max_length
        self.unanswered = 0
        self.errors = 0

    def template(self, session: str) -> bytes:
        key = self._key_pattern.replace("{session}", session).encode()
        length = b"%d" % self._max_length
        words = (b"XADD", key, b"MAXLEN", b"~", length, b"*")
        event = payload.EVENT.encode()
        sample = payload.event_data(0, 0)
        command = encode_command(*words, b"event", event, b"data", sample)
        return command.replace(b"%", b"%%").replace(sample, payload.TEMPLATE)

    def sent(self, count: int) -> bytes:
        self.unanswered += count
        return b""

    def received(self, answer: bytes) -> None:
        # An id is "$<n>\r\n<ms>-<n>\r\n": a minus begins a line only in an error.
        errors = answer.count(b"\n-") + answer.startswith(b"-")
        self.errors += errors
        self.unanswered -= answer.count(b"$") + errors


class NatsSink:
    """``PUB session 200``; a PING after each batch tells when the server took it."""

    def __init__(self) -> None:
        self._batches: list[int] = []
        self.unanswered = 0
        self.errors = 0

    def template(self, session: str) -> bytes:
        head = b"PUB %s %d\r\n" % (session.encode(), payload.DATA_BYTES)
        return head + payload.TEMPLATE + b"\r\n"

    def sent(self, count: int) -> bytes:
        self._batches.append(count)
        self.unanswered += count
        return b"PING\r\n"

    def received(self, answer: bytes) -> None:
        self.errors += answer.count(b"-ERR")
        pongs = answer.count(b"PONG\r\n")
        self.unanswered -= sum(self._batches[:pongs])
        del self._batches[:pongs]


class Publisher:
    """Sends what is due, batch by batch, round robin over its sessions."""

    def __init__(self, sink: Sink, port: int, sessions: list[str]) -> None:
        self._sink = sink
        self._templates = [sink.template(session) for session in sessions]
        self._ordinals = [0] * len(sessions)
        self._next = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send bytes that are no event, such as a greeting."""
        self._socket.sendall(data)

    def publish(self, count: int) -> None:
        """Publish *count* events now, in one write."""
        time_ns = time.monotonic_ns() + payload.TIME_BASE
        commands = []
        for _ in range(count):
            index = self._next
            ordinal = self._ordinals[index] = self._ordinals[index] + 1
            commands.append(
                self._templates[index] % (time_ns, ordinal + payload.ORDINAL_BASE)
            )
            self._next = (index + 1) % len(self._templates)
        commands.append(self._sink.sent(count))
        self._socket.sendall(b"".join(commands))

    def read_answers(self, timeout_s: float = 0) -> bool:
        """Read answers if there are any within *timeout_s*; whether there were."""
        ready, _, _ = select.select([self._socket], [], [], timeout_s)
        if not ready:
            return False
        answer = self._socket.recv(1 << 20)
        if not answer:
            raise ConnectionError("the server closed the publisher's connection")
        self._sink.received(answer)
        return True


def run(
    publisher: Publisher,
    sink: RedisSink | NatsSink,
    pace: Pace,
    counter: memoryview[int],
    pipe: CommandPipe,
) -> dict[str, Any]:
    """Publish at the pace until it is finished or a command comes."""
    before = counter[PUBLISHED]
    started_ns = time.monotonic_ns()
    while not pace.finished:
        wait_s = (pace.deadline_ns - time.monotonic_ns()) / 1e9
        ready, _, _ = select.select([pipe.fd], [], [], max(0, wait_s))
        if ready:
            pipe.read()
            break
        count = pace.take(time.monotonic_ns(), MOST_PER_BATCH)
        if count:
            publisher.publish(count)
            counter[PUBLISHED] = before + pace.sent
        publisher.read_answers()
        while sink.unanswered > MOST_UNANSWERED:
            publisher.read_answers(1)
    seconds = (time.monotonic_ns() - started_ns) / 1e9
    while sink.unanswered > 0 and publisher.read_answers(5):
        pass
    return pace.summary() | {"seconds": seconds, "errors": sink.errors}


def main() -> None:
    """Serve commands until the controller is gone."""
    config: dict[str, Any] = orjson.loads(sys.argv[1])
    sink: RedisSink | NatsSink
    if config["kind"] == "redis":
        sink = RedisSink(config["key_pattern"], config["max_length"])
    else:
        sink = NatsSink()
    publisher = Publisher(sink, config["port"], config["sessions"])
    if config["kind"] == "nats":
        publisher.send(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    counter = Counters(config["counters_fd"], config["rows"]).row(config["row"])
    pipe = CommandPipe()
    pipe.answer(ready=True)
    with contextlib.suppress(EOFError):
        while True:
            for command in pipe.read():
                if command["do"] == "run":
                    start_ns = time.monotonic_ns()
                    pace = Pace(command["rate"], command["seconds"], start_ns)
                    pipe.answer(**run(publisher, sink, pace, counter, pipe))


if __name__ == "__main__":
    main()
