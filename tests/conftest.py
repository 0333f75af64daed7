"""What every test may use: the production event loop and real servers."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import hypothesis
import pytest
import uvloop
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.harness.ledger import Ledger
from tests.harness.publisher import Author, connect
from tests.harness.recorder import Recorder
from tests.harness.redis_server import new_server
from tests.harness.servers import BrokerServer
from tests.harness.tools import left_out
from tests.harness.watcher import MultiWatcher, Watcher

# The same examples on every run of CI: a new one is for a developer to find, and no
# deadline holds on a busy machine.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("steady")


FAILED = pytest.StashKey[bool]()


def pytest_report_header() -> list[str]:
    """Say which tests are left out because of what is not on this machine."""
    return left_out()


StartBroker = Callable[..., BrokerServer]
StartRedis = Callable[..., EmbeddedServer]
RedisAt = Callable[[str], Redis]
NewWatcher = Callable[..., Watcher]
NewMulti = Callable[..., MultiWatcher]


class TestLoop(uvloop.Loop):
    """The production loop, which fails a test that leaves a transport open.

    With warnings as errors uvloop's own warning would be raised in the middle of its
    closing, and the loop would then wait for ever.
    """

    __test__ = False

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            super().close()
        if caught:
            raise ResourceWarning("; ".join(str(one.message) for one in caught))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run everything asynchronous on the loop that runs in production."""
    del config, item
    return {"uvloop": TestLoop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself failed: then its accounts stay open."""
    del call
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for all tests that leave it as it is."""
    with new_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_broker(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """One broker with two workers for all tests that need nothing special."""
    server = BrokerServer(shared_redis.url, tmp_path_factory.mktemp("broker"), {})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(shared_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The shared broker; the test fails if it makes the broker log an error."""
    yield shared_broker
    shared_broker.check_log()
    shared_broker.allowed.clear()


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRedis]:
    """Start servers of the test's own; arguments go to the server."""
    servers: list[EmbeddedServer] = []

    def start(*arguments: str, appendonly: bool = False) -> EmbeddedServer:
        directory = tmp_path_factory.mktemp("redis")
        server = new_server(directory, *arguments, appendonly=appendonly)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_broker(
    tmp_path_factory: pytest.TempPathFactory, start_redis: StartRedis
) -> Iterator[StartBroker]:
    """Start brokers of the test's own; keywords are settings in lower case."""
    del start_redis  # its servers must outlive the brokers
    servers: list[BrokerServer] = []

    def start(redis_url: str, **settings: object) -> BrokerServer:
        directory = tmp_path_factory.mktemp("broker")
        server = BrokerServer(redis_url, directory, settings)
        server.start()
        servers.append(server)
        return server

    yield start
    failures = []
    for server in servers:
        try:
            server.stop()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def new_session(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Names of sessions that no other test uses."""
    name = re.sub(r"\W+", "-", request.node.name)[:60].strip("-_")
    return lambda: f"{name}.{secrets.token_hex(4)}"


@pytest.fixture
def session(new_session: Callable[[], str]) -> str:
    """The name of a session that no other test uses."""
    return new_session()


@pytest.fixture
async def redis_at() -> AsyncIterator[RedisAt]:
    """Make clients of other servers; they are closed when the test ends."""
    clients: list[Redis] = []

    def make(url: str) -> Redis:
        clients.append(connect(url))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def redis(shared_redis: EmbeddedServer) -> AsyncIterator[Redis]:
    """A client of the shared server."""
    client = connect(shared_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
def ledger() -> Ledger:
    """What this test publishes."""
    return Ledger()


@pytest.fixture
def author(redis: Redis, ledger: Ledger) -> Author:
    """Publishes to the shared server."""
    return Author(redis, ledger)


@pytest.fixture
def recorder(ledger: Ledger) -> Recorder:
    """The test's accounts."""
    return Recorder(ledger)


@pytest.fixture
async def watch(
    request: pytest.FixtureRequest, recorder: Recorder, start_broker: StartBroker
) -> AsyncIterator[NewWatcher]:
    """Make watchers; the sum of each must close when the test ends.

    They are settled while they are still connected.
    """
    del start_broker  # its brokers must outlive the watchers
    made: list[Watcher] = []

    def make(at: BrokerServer, session: str, protocol: str = "websocket") -> Watcher:
        account = recorder.account(f"watcher-{len(made)}", session)
        watcher = Watcher(at.public, account, protocol)
        made.append(watcher)
        return watcher

    try:
        yield make
        if not request.node.stash.get(FAILED, False):
            await recorder.complete()
            recorder.settle()
    finally:
        for watcher in made:
            await watcher.finish()


@pytest.fixture
async def multi(
    request: pytest.FixtureRequest, recorder: Recorder, watch: NewWatcher
) -> AsyncIterator[NewMulti]:
    """Make clients of ``/v1/ws``; their accounts are settled with the watchers'."""
    del watch  # settles the accounts, after these connections are gone
    made: list[MultiWatcher] = []

    def make(at: BrokerServer) -> MultiWatcher:
        made.append(MultiWatcher(at.public, recorder, f"multi-{len(made)}"))
        return made[-1]

    yield make
    if not request.node.stash.get(FAILED, False):
        await recorder.complete()
    for watcher in made:
        await watcher.finish()
