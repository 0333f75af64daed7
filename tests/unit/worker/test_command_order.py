"""A connection's commands are done one after the other, and nobody else waits."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from broker.control.identity import everybody
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Slots
from broker.protocols.formats import NATIVE
from broker.protocols.native import BadFrame, ClientFrame
from broker.worker.commands import WAITING_MAX, Commands
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect
from broker.worker.handshake import Refusal


class Line(Connection):
    """A connection that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None), Dialect(NATIVE), everybody(""), "")
        self.sent: list[dict[str, Any]] = []
        self.closed_with: Disconnect | None = None

    @property
    def open(self) -> bool:
        return self.closed_with is None

    def send(self, data: bytes) -> None:
        self.sent.append(orjson.loads(data[data.index(b"{") :]))

    def close(self, reason: Disconnect, **details: object) -> None:
        self.closed_with = reason


class Desk:
    """Commands whose slow ones are finished by the test."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gates: list[asyncio.Future[None]] = []
        self.commands = Commands(
            Slots.create(1).row(1),
            {"quick": self._handle_quick, "slow": self._handle_slow},
            self._handle_bad,
        )

    def _handle_quick(self, line: Connection, frame: ClientFrame) -> None:
        self.done.append(f"quick {frame.id}")

    async def _handle_slow(self, line: Connection, frame: ClientFrame) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        self.done.append(f"slow {frame.id}")

    def _handle_bad(self, line: Connection, frame: ClientFrame) -> None:
        raise BadFrame("forbidden", "no", frame.id)

    def say(self, line: Line, *said: str) -> None:
        for text in said:
            cmd, ref = text.split()
            self.commands.handle(line, orjson.dumps({"cmd": cmd, "id": ref}))


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_behind_a_slow_command_waits(desk: Desk) -> None:
    """And is done in its order when that is done."""
    line = Line()
    desk.say(line, "quick 1", "slow 2", "quick 3", "slow 4", "quick 5")
    await turn()
    assert desk.done == ["quick 1"]
    desk.gates[0].set_result(None)
    await turn()
    assert desk.done == ["quick 1", "slow 2", "quick 3"]
    desk.gates[1].set_result(None)
    await turn()
    assert desk.done == ["quick 1", "slow 2", "quick 3", "slow 4", "quick 5"]


async def test_other_connections_do_not_wait(desk: Desk) -> None:
    """One client's question to Redis is its own affair."""
    desk.say(Line(), "slow 1")
    await turn()
    desk.say(Line(), "quick 2")

    assert desk.done == ["quick 2"]
    desk.gates[0].set_result(None)


async def test_a_refusal_in_a_slow_command_is_an_answer(desk: Desk) -> None:
    """The connection goes on with what waits behind it."""
    line = Line()
    desk.say(line, "slow 1", "bad 2", "quick 3")
    await turn()
    desk.gates[0].set_exception(Refusal("unavailable"))
    await turn()

    first, second = (frame["data"] for frame in line.sent)
    assert (first["code"], first["ref"], first["retry"]) == ("unavailable", "1", True)
    assert (second["code"], second["ref"]) == ("forbidden", "2")
    assert desk.done == ["quick 3"]


async def test_a_failure_in_a_slow_command_closes_the_connection(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is done any more of what it has said."""
    line = Line()
    desk.say(line, "slow 1", "quick 2")
    await turn()
    desk.gates[0].set_exception(ZeroDivisionError())
    await turn()

    assert line.closed_with is Disconnect.INTERNAL
    assert desk.done == []
    assert "command_failed" in capsys.readouterr().out


async def test_a_closed_connection_s_commands_are_dropped(desk: Desk) -> None:
    """Who has left does not go on subscribing."""
    line = Line()
    desk.say(line, "slow 1", "quick 2")
    await turn()
    line.closed_with = Disconnect.NORMAL
    desk.gates[0].set_result(None)
    await turn()

    assert desk.done == ["slow 1"]


async def test_only_so_many_commands_may_wait(desk: Desk) -> None:
    """The rest is refused at once, and counted."""
    line = Line()
    desk.say(line, "slow 1", *(f"quick {n}" for n in range(WAITING_MAX + 3)))
    await turn()
    codes = [frame["data"]["code"] for frame in line.sent]

    assert codes == ["rate_limited"] * 3
    assert line.errors == 3
    assert catalog.CLIENT_ERRORS.slots["rate_limited"]
    desk.gates[0].set_result(None)
    await turn()
    assert len(desk.done) == WAITING_MAX + 1


async def test_what_waits_is_bounded_in_bytes(desk: Desk) -> None:
    """A few large frames fill the queue as well."""
    line = Line()
    desk.say(line, "slow 1")
    await turn()
    large = orjson.dumps({"cmd": "quick", "data": {"text": "x" * 100_000}})
    for _ in range(5):
        desk.commands.handle(line, large)
    codes = [frame["data"]["code"] for frame in line.sent]

    assert codes == ["rate_limited"] * 2
    desk.gates[0].set_result(None)
    await turn()
    assert len(desk.done) == 4
