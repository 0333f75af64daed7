"""Ports: taken ones, free ones, and what a scrape looks like over HTTP."""

from __future__ import annotations

import socket

import pytest

from broker.config import Settings
from broker.errors import ConfigError
from broker.supervisor.resources import Resources
from broker.supervisor.supervisor import Addresses, Supervisor
from tests.integration.supervisor.pod import SETTINGS, running_pod


def settings(**changes: object) -> Settings:
    return Settings.model_validate(SETTINGS | changes)


def test_port_of_another_broker_is_refused() -> None:
    """Two pods that share a port would each get a part of the other's clients."""
    first = Resources(settings())

    with pytest.raises(ConfigError, match=f"BROKER_PORT={first.public_port}"):
        Resources(settings(port=first.public_port))
    first.close()


def test_worker_can_listen_on_the_reserved_port() -> None:
    """The reservation is shared with those who say so, and takes no connection."""
    resources = Resources(settings())
    address = ("127.0.0.1", resources.public_port)
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(address)
        worker.listen()
        clients = [socket.create_connection(address, 2) for _ in range(20)]
        taken = [worker.accept()[0] for _ in clients]

    assert len(taken) == 20
    for opened in (*clients, *taken):
        opened.close()
    resources.close()


def test_only_the_reader_inherits_the_socket_for_requests() -> None:
    """Workers get its address, which names the pod."""
    resources = Resources(settings())
    reader, worker = resources.boot(0), resources.boot(2)

    assert reader.requests_fd > 0
    assert reader.requests_address == ""
    assert worker.requests_fd == -1
    assert worker.requests_address == f"\0broker-{resources.pod}"
    assert worker.role == "worker"
    assert len(worker.doorbell_fds) == 2
    resources.close()


async def test_taken_admin_port_is_refused_before_any_child_is_started() -> None:
    """The message names the setting."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=f"BROKER_ADMIN_PORT={port}"):
            await Supervisor(settings(admin_port=port)).run()


async def test_metrics_come_in_the_format_of_prometheus() -> None:
    """The content type names the format's version."""
    async with running_pod() as pod:
        response = await pod.ask("/metrics")

        assert response.status == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert await pod.metric("broker_workers_up") == 2
        assert b"broker_build_info{" in response.body


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("10.0.0.1", "http://10.0.0.1:80"),
    ],
)
def test_shown_url_can_be_pasted(host: str, shown: str) -> None:
    """A wildcard is no address to connect to."""
    addresses = Addresses(
        public_host=host, public_port=80, admin_host=host, admin_port=80
    )

    assert addresses.public == shown
