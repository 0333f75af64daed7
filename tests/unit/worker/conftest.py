"""What the tests of a worker's parts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from broker.config import Settings, load_settings
from broker.metrics.slots import Row, Slots
from tests.fakes import FakeClock, StepLoop
from tests.unit.worker.parts import Bench, Ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    """A ring of the smallest size."""
    made = Ring()
    yield made
    made.close()


@pytest.fixture
def values() -> Iterator[Row]:
    """A worker's numbers."""
    slots = Slots.create(1)
    yield slots.row(1)
    slots.close()


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes only when told."""
    return FakeClock()


@pytest.fixture
def loop(clock: FakeClock) -> Iterator[StepLoop]:
    """A loop that runs when told; parts made in the test belong to it."""
    made = StepLoop(clock)
    with made.running():
        yield made
    made.close()


@pytest.fixture
def bench(quiet: None, clock: FakeClock) -> Iterator[Bench]:
    """A whole worker without sockets."""
    made = Bench(clock)
    yield made
    made.close()


@pytest.fixture
def rising(quiet: None, clock: FakeClock) -> Iterator[Bench]:
    """The same; a stream that is deleted and made anew goes on with higher ids."""
    made = Bench(clock, rising=True)
    yield made
    made.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    """No log."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**configured)


@pytest.fixture
def settings() -> Settings:
    """The defaults."""
    return load_settings({}, env_file=None)
