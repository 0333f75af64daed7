from __future__ import annotations

import msgspec
import pytest

from loadtest import peers
from loadtest.fleet.remote import Fleet
from loadtest.setup import Setup, split_cores
from loadtest.stage import Measured, even_load, measure, stage


@pytest.fixture
def setup() -> Setup:
    servers, load = split_cores()
    return Setup(server_cores=servers, load_cores=load, seconds=0.5, warm_s=0.2)


def run(setup: Setup, name: str, rate: float = 100, sockets: int = 20) -> Measured:
    with (
        stage(setup) as (counters, fleet),
        peers.make_target(name, setup, counters) as target,
    ):
        return measure(setup, target, fleet, even_load(rate, 1, sockets))


@pytest.mark.parametrize("name", ["os_write", "send_str"])
def test_fleet_counts_every_event_of_a_baseline(setup: Setup, name: str) -> None:
    """Real processes, real sockets: what was made is what was counted."""
    measured = run(setup, name)
    figures = measured.figures

    assert figures["published"] == 70
    assert figures["delivered"] == figures["expected"] == 70 * 20
    assert measured.wrong == []
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["server_us_per_delivery"] > 0


@pytest.mark.skipif(not peers.available("nats"), reason="no nats-server here")
def test_fleet_counts_every_event_of_nats(setup: Setup) -> None:
    """The same over the NATS protocol, with publishers of their own."""
    measured = run(setup, "nats", rate=2000)

    assert measured.figures["delivered"] == 1400 * 20
    assert measured.wrong == []


def test_sockets_that_a_server_cuts_are_noticed(setup: Setup) -> None:
    """A dead server is a finding of the run, not silence."""
    setup = msgspec.structs.replace(setup, fleet=1)
    with stage(setup) as (counters, fleet):
        with peers.make_target("os_write", setup, counters) as target:
            fleet.connect_all(target.dialect, target.port, even_load(1, 1, 5).specs)
            connected = fleet.open
        wait_for_lost(fleet, 5)
        report = fleet.report()

    assert connected == 5
    assert report.lost == 5


def wait_for_lost(fleet: Fleet, count: int) -> None:
    while fleet.lost < count:
        fleet.wait_until_still(1, quiet_s=0.05, timeout_s=1)
