"""Asks every worker of the fleet which of its connections are furthest behind."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec
import structlog

from broker.control.notices import ANSWERS, CHANNEL, Question, encode
from broker.store.cluster import open_connection
from broker.store.connection import Connection
from broker.supervisor.api.gate import Call
from broker.supervisor.api.messages import Connections, Lagging
from broker.worker.handshake import Refusal
from broker.worker.starting import read_number

log = structlog.get_logger(__name__)

LIMIT, LIMIT_MAX = 20, 500
ANSWERS_S = 2.0
"""How long all workers together may take to answer."""
MARGIN_S = 1.0
LAST_WAIT_S = 0.01
"""To BLPOP a time of 0 is no time limit."""
AT_ONCE = 4
"""Questions of this pod under way: each one is work for the whole fleet."""

_read_answer = msgspec.json.Decoder(list[Lagging]).decode


class Questions:
    """Puts questions to all workers, on a connection of its own for each.

    An answer is awaited by blocking, and nobody else's commands may stand behind that.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def connections(self, call: Call) -> Connections:
        """The connections that are furthest behind, and how many workers answered."""
        limit = _limit(call.request.query.get("limit"))
        if self._slots.locked():
            raise Refusal("overloaded", "this is being asked often enough already")
        async with self._slots:
            connection = await open_connection(
                self._url,
                client_name="broker-question",
                connect_timeout_s=ANSWERS_S,
                command_timeout_s=ANSWERS_S + MARGIN_S,
            )
            try:
                return await _ask(connection, limit)
            finally:
                connection.close()


async def _ask(connection: Connection, limit: int) -> Connections:
    number = secrets.token_hex(8)
    key = f"{ANSWERS}{number}"
    question = encode(Question(number, limit))
    deadline = time.monotonic() + ANSWERS_S
    workers = await connection.call("PUBLISH", CHANNEL, question)
    found: list[Lagging] = []
    answered = 0
    for _ in range(workers):
        left_s = max(deadline - time.monotonic(), LAST_WAIT_S)
        reply = await connection.call("BLPOP", key, f"{left_s:.3f}")
        if reply is None:
            break
        answer = _read(reply[1])
        if answer is not None:
            answered += 1
            found += answer
    await connection.call("DEL", key)
    found.sort(key=_how_bad, reverse=True)
    return Connections(found[:limit], answered, workers)


def _read(answer: bytes) -> list[Lagging] | None:
    try:
        return _read_answer(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("answer_unreadable", error=str(error))
        return None


def _how_bad(one: Lagging) -> tuple[int, int]:
    return one.behind_entries or 0, one.buffered_bytes


def _limit(text: str | None) -> int:
    limit = LIMIT if text is None else read_number(text)
    if not 0 < limit <= LIMIT_MAX:
        raise Refusal("bad_request", f"limit is a number from 1 to {LIMIT_MAX}")
    return limit
