"""Redis over TLS: Debian's, since the packaged Valkey is built without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config import load_settings
from broker.doctor.examine import examine_redis
from broker.errors import ConfigError, StoreUnavailable
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer, free_port
from tests.conftest import RedisAt, StartBroker
from tests.harness.certificates import Authority
from tests.harness.errand import run_errand
from tests.harness.programs import program
from tests.harness.redis_server import SERVICE, Sentinel

HOSTS = "127.0.0.1", "127.0.0.2"
"""Where it listens; the certificate is for the first."""


class Secured:
    """A server that takes clients with a certificate only, and a Sentinel of it.

    Attributes:
        server: Which also listens without TLS, for the test itself.
        port: With TLS.
        client: Certificate and key that it takes.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        certificate, key = self.authority.issue("server")
        self.client = self.authority.issue("client")
        self.port = free_port()
        files = {"ca-cert": self.authority.path, "cert": certificate, "key": key}
        options = [f"tls-{name}-file {path}" for name, path in files.items()]
        binary = Path(program("redis-server"))
        words = [word for option in options for word in f"--{option}".split()]
        self.server = EmbeddedServer(
            binary,
            directory / "redis",
            extra_args=["--tls-port", str(self.port), "--bind", *HOSTS, *words],
        )
        self.server.start()
        self.sentinel_port = free_port()
        watch = f"sentinel monitor {SERVICE} 127.0.0.1 {self.port} 1"
        own = [f"tls-port {self.sentinel_port}", "tls-replication yes", *options]
        self.sentinel = Sentinel(binary, directory / "sentinel", [*own, watch])
        self.sentinel.start()

    def stop(self) -> None:
        self.sentinel.kill()
        self.server.kill()

    @property
    def query(self) -> str:
        """What a URL says to be let in."""
        certificate, key = self.client
        trust = f"ssl_ca_certs={self.authority.path}"
        return f"{trust}&ssl_certfile={certificate}&ssl_keyfile={key}"

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}/0?{self.query}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("tls"))
    yield made
    made.stop()


async def test_broker_works_over_mutual_tls(
    secured: Secured, start_broker: StartBroker, redis_at: RedisAt
) -> None:
    """Every connection of every process shows its certificate and checks the other."""
    broker = start_broker(secured.url, max_sessions_per_user=1)
    await run_errand(broker, redis_at(secured.server.url))
    broker.stop()


async def test_primary_is_found_by_sentinels_over_tls(secured: Secured) -> None:
    """Both the Sentinel and the primary that it names are asked for a certificate."""
    nodes = f"localhost:{secured.sentinel_port}"
    url = f"rediss+sentinel://{nodes}/{SERVICE}?{secured.query}"
    connection = await Connection.open(url, client_name="test")
    role = await connection.call("ROLE")
    connection.close()

    assert role[0] == b"master"


async def test_server_of_another_authority_is_not_trusted(
    secured: Secured, tmp_path: Path
) -> None:
    """Who listens in the place of Redis gets no password to see."""
    other = Authority(tmp_path, "other")
    url = secured.url.replace(str(secured.authority.path), str(other.path))
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate verify failed"):
        await Connection.open(url, client_name="test")


async def test_server_under_another_name_is_not_trusted(secured: Secured) -> None:
    """The certificate is for localhost and 127.0.0.1."""
    url = secured.url.replace("localhost", "127.0.0.2")
    with pytest.raises(StoreUnavailable, match=r"(?i)mismatch"):
        await Connection.open(url, client_name="test")


async def test_without_trust_nothing_is_checked_but_all_is_encrypted(
    secured: Secured,
) -> None:
    """As an operator has asked for, who does without an authority."""
    url = secured.url.replace(f"ssl_ca_certs={secured.authority.path}", "")
    connection = await Connection.open(f"{url}&ssl_cert_reqs=none", client_name="test")
    assert await connection.call("PING") == b"PONG"
    connection.close()


async def test_doctor_says_that_the_client_certificate_is_missing(
    secured: Secured,
) -> None:
    """The server ends such a connection; what comes of it is one failed check."""
    url = f"rediss://localhost:{secured.port}/0?ssl_ca_certs={secured.authority.path}"
    (finding,) = await examine_redis(url, load_settings({}, None))

    assert (finding.check, finding.verdict) == ("reach", "fail")
    assert "certificate" in finding.advice


async def test_unreadable_certificate_is_a_config_error(secured: Secured) -> None:
    """It is found at once and says which setting it is about."""
    url = secured.url.replace("client.pem", "absent.pem")
    with pytest.raises(ConfigError, match="certificates cannot be read"):
        await Connection.open(url, client_name="test")
