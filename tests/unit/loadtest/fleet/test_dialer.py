from __future__ import annotations

from loadtest.fleet.dialer import Dialer


def make_dialer(**words: object) -> Dialer:
    clients = [{"session": "s"}] * 10
    command = {"dialect": "plain", "port": 1, "sources": [], "clients": clients}
    return Dialer.from_command(command | words)


def test_no_more_are_on_the_way_than_allowed() -> None:
    """A server that accepts slowly is not flooded."""
    dialer = make_dialer(in_flight=3)
    dialer.begun = 3

    assert dialer.due(dialer.started_ns) == 0
    dialer.joined(0, 0)
    assert dialer.due(dialer.started_ns) == 1


def test_rate_spreads_the_connections_over_time() -> None:
    """A storm of 10 clients at 10 per second takes a second."""
    dialer = make_dialer(rate=10, in_flight=0)

    assert dialer.due(dialer.started_ns) == 1
    dialer.begun = 2
    assert dialer.due(dialer.started_ns + 450_000_000) == 3


def test_dialing_ends_when_all_have_joined_or_failed() -> None:
    """A refused client is counted by its reason and not waited for."""
    dialer = make_dialer()
    dialer.waiting.clear()
    dialer.begun = 2
    dialer.joined(0, 20_000_000)
    dialer.failed("HTTP 503")
    result = dialer.result(dialer.started_ns)

    assert dialer.finished(dialer.started_ns)
    assert result["joined"] == 1
    assert result["failures"] == {"HTTP 503": 1}


def test_dialing_ends_when_time_is_up() -> None:
    """A server that answers nothing does not hang the load test."""
    dialer = make_dialer(timeout_s=1)
    dialer.begun = 1

    assert dialer.finished(dialer.started_ns + 1_100_000_000)
    assert dialer.result(dialer.started_ns)["unfinished"] == 11
