"""The servers under test: how each is started, fed, looked at and ended."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.counters import Counters
from loadtest.peers.baseline import BaselineTarget
from loadtest.peers.broker import BrokerTarget
from loadtest.peers.nats import NatsTarget
from loadtest.peers.target import Target
from loadtest.setup import Setup

BROKER = "broker"
NATS = "nats"
SEND_STR = "send_str"
OS_WRITE = "os_write"


def make_target(
    name: str,
    setup: Setup,
    counters: Counters,
    broker_env: Mapping[str, str] | None = None,
) -> Target:
    """A target by name, not started yet.

    *broker_env* are settings of the broker besides those that every run needs.
    """
    if name == BROKER:
        return BrokerTarget(setup, counters, broker_env or {})
    if name == NATS:
        return NatsTarget(setup, counters)
    return BaselineTarget(name, setup, counters)


def available(name: str) -> bool:
    """Whether this machine can run the target."""
    return name != NATS or NatsTarget.installed()
