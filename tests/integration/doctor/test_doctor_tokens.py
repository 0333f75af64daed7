"""The doctor finds out why the keys of tokens cannot be had, from real servers."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from broker import cli
from broker.config import Settings, load_settings
from broker.control import jwks
from broker.control.jwks import KEY_SET_BYTES_MAX
from broker.doctor.finding import Finding
from broker.doctor.tokens import check_tokens
from broker.store.embedded import free_port
from tests.conftest import StartRedis
from tests.harness.certificates import Authority
from tests.unit.control.issuer import ONE, SECRET, TWO, KeyServer, key_set

NO_CLIENT = "no token can be checked, so no client gets in"
NOT_THERE = "redis://127.0.0.1:1/0"
Doctor = Callable[..., Awaitable[Result]]


@pytest.fixture
async def issuer() -> AsyncIterator[KeyServer]:
    """Shows two keys."""
    server = KeyServer([ONE, TWO])
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Nobody believes it who is not told to."""
    return Authority(tmp_path)


@pytest.fixture
async def secured(authority: Authority) -> AsyncIterator[TestServer]:
    """Shows a key set with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("issuer"))
    app = web.Application()
    app.router.add_get("/keys", show_keys)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    yield server
    await server.close()


async def show_keys(request: web.Request) -> web.Response:
    del request
    return web.Response(body=key_set(ONE))


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    """Runs the command with the given settings only, beside the servers of the test."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, **settings: object) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, cli.main, ["doctor", *arguments], env=env(**settings)
        )

    return run


def env(**given: object) -> dict[str, str]:
    return {f"BROKER_{name.upper()}": str(one) for name, one in given.items()}


def settings(**given: object) -> Settings:
    return load_settings(env(**given), None)


async def judge(url: object) -> Finding:
    """What is found about the key set at *url*."""
    (found,) = await check_tokens(settings(auth="jwt", jwt_jwks_url=url))
    assert (found.check, found.server) == ("jwks", "")
    return found


async def assert_fails(url: object, text: str, advice: str) -> None:
    found = await judge(url)

    assert found.verdict == "fail"
    assert text in found.text
    assert found.text.endswith(NO_CLIENT)
    assert advice in found.advice


async def test_keys_that_can_be_used_are_counted(issuer: KeyServer) -> None:
    """Others of the set are none, as for the worker; the issuer is asked once."""
    issuer.show(ONE, TWO, ONE | {"use": "enc"}, TWO | {"alg": "ES512"})
    found = await judge(issuer.url)

    assert (found.verdict, found.advice) == ("ok", "")
    assert found.text == f"{issuer.url} can be fetched; usable keys: 2"
    assert issuer.requests == 1


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, key_set(ONE), "status 404"),
        (302, key_set(ONE), "status 302"),
        (503, key_set(ONE), "status 503"),
        (200, b"<html>", "not JSON"),
        (200, b'{"issuer": "x"}', "no list of keys"),
        (200, key_set(ONE | {"alg": "RS512"}), "no key for RS256 or ES256"),
        (200, b" " * (KEY_SET_BYTES_MAX + 1), "larger than 1048576 bytes"),
    ],
    ids=[404, 302, 503, "html", "another document", "no usable key", "large"],
)
async def test_answer_that_is_no_key_set_fails(
    issuer: KeyServer, status: int, body: bytes, text: str
) -> None:
    """It is the answer that a worker would not take; where the right one is is said."""
    issuer.status, issuer.body = status, body
    issuer.headers = {"Location": issuer.url}

    await assert_fails(issuer.url, f"{issuer.url}: no key set ({text})", "the jwks_uri")


async def test_port_where_nobody_listens_fails() -> None:
    """Either port or network is wrong."""
    url = f"http://127.0.0.1:{free_port()}/keys"

    await assert_fails(
        url,
        f"{url}: cannot be reached (Connection refused)",
        "network-policy-jwks.yaml, with this port",
    )


async def test_issuer_that_does_not_answer_fails(
    monkeypatch: pytest.MonkeyPatch, issuer: KeyServer
) -> None:
    """A network policy that was forgotten looks like that."""
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.05)
    issuer.open.clear()

    await assert_fails(issuer.url, "no answer within 5 s", "network-policy-jwks.yaml")


async def test_issuer_that_hangs_up_fails(issuer: KeyServer) -> None:
    """That is how some proxies refuse."""
    issuer.hangs_up = True

    await assert_fails(issuer.url, "cannot be fetched (Server", "without a proxy")


async def test_answer_that_is_no_http_fails_without_its_text() -> None:
    """The text of such an error has the URL with its query."""
    server = await asyncio.start_server(answer_nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/keys"
    async with server:
        found = await judge(f"{url}?canary")

    assert found.verdict == "fail"
    assert f"{url}: cannot be fetched (ClientResponseError)" in found.text
    assert "canary" not in repr(found)


async def answer_nonsense(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"220 mail.example ready\r\n")
    writer.close()
    await writer.wait_closed()


async def test_host_without_an_address_fails() -> None:
    """It is misspelt, or DNS is not let through."""
    await assert_fails(
        "https://issuer.invalid/keys", "the name of the host is not found", "host"
    )


async def test_encryption_where_there_is_none_fails(issuer: KeyServer) -> None:
    """The URL begins with https, and should not."""
    url = issuer.url.replace("http:", "https:")

    await assert_fails(url, "no TLS is spoken there", "scheme")


async def test_certificate_of_an_authority_of_ones_own_fails(
    secured: TestServer,
) -> None:
    """Unless the broker is told to believe it."""
    await assert_fails(
        secured.make_url("/keys"), "its certificate is not believed (", "SSL_CERT_FILE"
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "http://{0}:{0}@{1}/keys?{0}#{0}",
        "https://{0}:{0}@{1}/keys?{0}#{0}",
        "http://{0}:{0}@{1}/absent?{0}#{0}",
        "http://{0}:{0}@127.0.0.1:1/keys?{0}#{0}",
        "http://{0}:{0}@issuer.invalid/keys?{0}#{0}",
        "http://{0}:{0}@issuer..invalid/keys?{0}#{0}",
    ],
)
async def test_secrets_in_the_url_are_not_repeated(
    issuer: KeyServer, pattern: str
) -> None:
    """Whatever happens, only scheme, host, port and path are shown."""
    where = issuer.url.removeprefix("http://").partition("/")[0]
    found = await judge(pattern.format("canary", where))

    assert "canary" not in repr(found)
    assert "://" in found.text


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"auth": "jwt", "jwt_secret": SECRET},
        {"auth": "api_key", "api_keys": "[]"},
        {"jwt_jwks_url": "http://127.0.0.1:1/keys"},
    ],
    ids=["nobody", "secret", "api_key", "not used"],
)
async def test_nothing_is_said_where_no_key_set_is_used(given: dict[str, Any]) -> None:
    """The broker does not fetch one either."""
    assert await check_tokens(settings(**given)) == []


async def test_url_that_is_none_fails() -> None:
    """As it does when the broker starts; what else was found is still said."""
    given = settings(auth="jwt", jwt_jwks_url="ftp://h/canary")
    (finding,) = await check_tokens(given)

    assert finding.verdict == "fail"
    assert "BROKER_JWT_JWKS_URL" in finding.text
    assert "canary" not in finding.text


async def test_part_of_a_password_is_not_shown() -> None:
    """With a slash in it a part of it looks like a path."""
    url = "http://svc:12/canary@127.0.0.1:1/keys"
    (finding,) = await check_tokens(settings(auth="jwt", jwt_jwks_url=url))

    assert finding.verdict == "fail"
    assert "canary" not in finding.text + finding.advice


class TestCommand:
    async def test_keys_that_can_be_had_are_a_line(
        self, doctor: Doctor, start_redis: StartRedis, issuer: KeyServer
    ) -> None:
        """Status 0; lines about Redis do not name the server because of it."""
        url = start_redis("--maxmemory", "1gb").url
        result = await doctor(redis_url=url, auth="jwt", jwt_jwks_url=issuer.url)

        assert result.exit_code == 0
        assert f"ok    jwks: {issuer.url} can be fetched" in result.stdout
        assert "ok    eviction: " in result.stdout

    async def test_keys_that_cannot_be_had_are_status_1(
        self, doctor: Doctor, start_redis: StartRedis, issuer: KeyServer
    ) -> None:
        """It is the only thing that fails here."""
        issuer.status = 404
        url = start_redis("--maxmemory", "1gb").url
        result = await doctor(redis_url=url, auth="jwt", jwt_jwks_url=issuer.url)
        failures = [one for one in result.stdout.splitlines() if one[:4] == "fail"]

        assert result.exit_code == 1
        assert [one.split(":")[0] for one in failures] == ["fail  jwks"]
        assert "What to do: see that BROKER_JWT_JWKS_URL" in failures[0]

    async def test_keys_are_fetched_when_redis_is_away(
        self, doctor: Doctor, issuer: KeyServer
    ) -> None:
        """Both may be wrong at once."""
        result = await doctor(redis_url=NOT_THERE, auth="jwt", jwt_jwks_url=issuer.url)

        assert "fail  reach: " in result.stdout
        assert "ok    jwks: " in result.stdout

    async def test_before_anything_is_set_there_is_no_line(
        self, doctor: Doctor, start_redis: StartRedis
    ) -> None:
        """The look at a Redis to be needs its URL only."""
        url = start_redis("--maxmemory", "1gb").url
        result = await doctor("--url", url)

        assert result.exit_code == 0
        assert "jwks" not in result.output

    async def test_authority_of_ones_own_is_believed_by_its_file(
        self, secured: TestServer, authority: Authority, tmp_path: Path
    ) -> None:
        """``SSL_CERT_FILE``, as is advised, read by a process that begins with it."""
        asked = env(
            redis_url=NOT_THERE, auth="jwt", jwt_jwks_url=secured.make_url("/keys")
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker", "doctor"),
            cwd=tmp_path,
            env=os.environ | asked | {"SSL_CERT_FILE": str(authority.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()

        assert f"ok    jwks: {secured.make_url('/keys')} can be" in output.decode()
