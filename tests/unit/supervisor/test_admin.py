"""The admin server over HTTP, on a real port."""

from __future__ import annotations

import pytest
from pytest_aiohttp import AiohttpClient

from broker.supervisor.admin import AdminServer


class PodStatus:
    """A pod that is as ready as its reasons say."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)

    def health(self) -> dict[str, object]:
        return {"children": [{"name": "reader", "pid": 7}]}

    def not_started(self) -> list[str]:
        return self.reasons

    def not_live(self) -> list[str]:
        return self.reasons

    def not_ready(self) -> list[str]:
        return self.reasons

    def metrics(self) -> bytes:
        return b"# TYPE broker_workers_up gauge\nbroker_workers_up 2.0\n"


@pytest.mark.parametrize(
    ("path", "word"),
    [("/startupz", "started"), ("/livez", "live"), ("/readyz", "ready")],
)
@pytest.mark.parametrize(
    ("reasons", "status"), [((), 200), (("starting",), 503), (("a", "b"), 503)]
)
async def test_each_probe_fails_with_its_reasons(
    aiohttp_client: AiohttpClient,
    path: str,
    word: str,
    reasons: tuple[str, ...],
    status: int,
) -> None:
    """Whoever asks is told why."""
    client = await aiohttp_client(AdminServer(PodStatus(*reasons), "", 0).app)

    answer = await client.get(path)

    assert answer.status == status
    assert await answer.json() == {word: not reasons, "reasons": list(reasons)}


async def test_health_tells_of_the_processes(aiohttp_client: AiohttpClient) -> None:
    """It is answered as long as the supervisor's loop turns, ready or not."""
    client = await aiohttp_client(AdminServer(PodStatus("starting"), "", 0).app)

    answer = await client.get("/healthz")

    assert answer.status == 200
    assert (await answer.json())["children"] == [{"name": "reader", "pid": 7}]


async def test_metrics_have_the_content_type_of_prometheus(
    aiohttp_client: AiohttpClient,
) -> None:
    """A scraper chooses its parser by it."""
    client = await aiohttp_client(AdminServer(PodStatus(), "", 0).app)

    answer = await client.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "broker_workers_up 2.0" in await answer.text()
