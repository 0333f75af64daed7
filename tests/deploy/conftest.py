"""Tests of ``deploy/`` with the programs it is made for, as Debian packages them.

A file whose programs are not on this machine is not collected, which the first lines of
the output say; with ``BROKER_TEST_ALL=1`` that is an error. ``programs.NEEDS`` lists
what each file runs: add a line there for a new one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.store.embedded import EmbeddedServer
from tests.harness.balancers import HEARTBEAT_S, Pods
from tests.harness.programs import missing_for_deploy
from tests.harness.servers import BrokerServer
from tests.harness.tools import IS_ALL_WANTED

MISSING = missing_for_deploy()

if MISSING and IS_ALL_WANTED:
    names = sorted({name for lacks in MISSING.values() for name in lacks})
    raise pytest.UsageError(f"tests/deploy needs {' and '.join(names)}: see .ci/run")
collect_ignore = sorted(MISSING)


@pytest.fixture(scope="module")
def pods(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """Three brokers for the tests of a balancer that leave them as they are."""
    started: list[BrokerServer] = []

    def start(**settings: object) -> BrokerServer:
        directory = tmp_path_factory.mktemp("broker")
        started.append(BrokerServer(shared_redis.url, directory, settings).start())
        return started[-1]

    try:
        yield Pods(3, start, heartbeat_s=HEARTBEAT_S, token_in_query="true")
    finally:
        for broker in started:
            broker.stop()
