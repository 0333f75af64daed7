"""Connections accepted per second and core."""

from __future__ import annotations

from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER, NATS, SEND_STR
from loadtest.peers.target import Target
from loadtest.procstat import Usage
from loadtest.report import Figure
from loadtest.scenarios.rounds import Question
from loadtest.setup import Setup
from loadtest.stage import Measured

CONNECTIONS = 5000
FIRST = 500


def measure_accept(setup: Setup, target: Target, fleet: Fleet) -> Measured:
    """CPU of accepting, after the first connections have warmed everything up."""
    first, count = setup.scaled(FIRST), setup.scaled(CONNECTIONS)
    specs = [Spec(session="s0")] * count
    fleet.connect_all(target.dialect, target.port, specs[:first], sampled=0)
    before = Usage.of(target.servers | fleet.processes)
    connected = fleet.connect_all(target.dialect, target.port, specs, sampled=0)
    used = Usage.of(target.servers | fleet.processes).since(before)
    server_s = sum(used[name].run_s for name in target.servers)
    fleet_s = sum(used[name].run_s for name in fleet.processes)
    figures = {
        "us_per_connection": server_s * 1e6 / count,
        "per_s_and_core": count / server_s,
        "connected_per_s": count / connected.seconds,
        "fleet_us_per_connection": fleet_s * 1e6 / count,
    }
    return Measured(figures | connected.joins.figures())


def questions(setup: Setup) -> list[Question]:
    """One case; the plain aiohttp server has one process, the others two cores."""
    return [
        Question(
            name=f"accept: {setup.scaled(CONNECTIONS)} connections as fast as they go",
            targets=(BROKER, NATS, SEND_STR),
            figures=(
                Figure("us_per_connection", "server CPU per connection, us"),
                Figure("per_s_and_core", "connections per second and core", "higher"),
                Figure("connected_per_s", "connections per second", "higher"),
                Figure("p50_ms", "connect to joined p50, ms"),
                Figure("p99_ms", "connect to joined p99, ms"),
            ),
            measure=measure_accept,
        )
    ]
