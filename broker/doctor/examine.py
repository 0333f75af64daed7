"""Asks every server and gathers what is found."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from broker.config import Settings
from broker.doctor import probes
from broker.doctor.finding import Finding, fail
from broker.doctor.machine import check_machine
from broker.doctor.sentinels import check_sentinels
from broker.doctor.server import judge_server
from broker.errors import StoreError, StoreUnavailable
from broker.store.address import Address, parse_url
from broker.store.connection import Connection
from broker.store.topology import address_of, ask_topology

log = structlog.get_logger(__name__)

NAME = "broker-doctor"
AGAIN_S = 5.0


def examine_machine(settings: Settings) -> list[Finding]:
    """Look at this machine."""
    return list(check_machine(settings))


async def examine_redis(
    url: str, settings: Settings, *, with_self_test: bool = True
) -> list[Finding]:
    """Look at the server, or at every primary of the cluster.

    Args:
        url: As `broker.store.address.parse_url` reads it.
        settings: Of the broker.
        with_self_test: Try ``CLIENT TRACKING``, for which a key is written.

    Raises:
        ConfigError: The URL cannot be used.
    """
    address = parse_url(url)
    try:
        if address.kind == "sentinel":
            watching = await check_sentinels(address, NAME)
            found = await _examine(address, settings, with_self_test, in_cluster=False)
            return [msgspec.structs.replace(watching, server=str(address)), *found]
        if address.kind == "server":
            return await _examine(address, settings, with_self_test, in_cluster=False)
        topology = await ask_topology(address, NAME, ())
    except StoreError as error:
        return [_unreachable(address, error)]
    findings = []
    for node in sorted(topology.nodes.values()):
        one = address_of(address, node)
        try:
            findings += await _examine(one, settings, False, in_cluster=True)
        except StoreError as error:
            findings.append(_unreachable(one, error))
    return findings


async def _examine(
    address: Address, settings: Settings, with_self_test: bool, *, in_cluster: bool
) -> list[Finding]:
    connection = await Connection.open(address, client_name=NAME)
    found = [_reached(address)]
    try:
        # On one of its own: a transaction that may be begun and not ended is no place
        # for further questions.
        apart = await Connection.open(address, client_name=NAME)
        try:
            rights = await probes.check_rights(apart, settings, in_cluster=in_cluster)
        finally:
            apart.close()
        found.append(rights)
        info, config = await probes.read_facts(connection)
        found += judge_server(info, config, settings, in_cluster=in_cluster)
        found.append(await probes.check_clock(connection))
        found.append(await probes.check_latency(connection))
        may_test = info.get("role") == "master" and info.get("cluster_enabled") != "1"
        if with_self_test and may_test:
            second = await Connection.open(address, client_name=NAME)
            try:
                found.append(await probes.check_tracking(connection, second, settings))
            finally:
                second.close()
    except StoreUnavailable as error:
        text = f"Redis does not answer all questions: {error}"
        found.append(fail("reach", text, "look into the log of Redis"))
    except StoreError as error:
        text = f"Redis refuses to answer: {error}"
        found.append(fail("facts", text, "give the user the rights above"))
    finally:
        connection.close()
    return [msgspec.structs.replace(one, server=str(address)) for one in found]


def _reached(address: Address) -> Finding:
    how = "encrypted" if address.tls else "not encrypted"
    who = f"as user {address.username}" if address.username else "as the default user"
    log_in = f"logged in {who}" if address.password else "without a password"
    return Finding(
        check="reach", verdict="ok", text=f"{address} answers; {how}, {log_in}"
    )


def _unreachable(address: Address, error: Exception) -> Finding:
    advice = "see that Redis runs there, that the network lets us through, and that "
    advice += "user, password and certificates in BROKER_REDIS_URL are right"
    finding = fail("reach", str(error), advice)
    return msgspec.structs.replace(finding, server=str(address))


async def beside(settings: Settings, serving: Coroutine[Any, Any, int]) -> int:
    """Serve, and log once what is wrong with Redis, as soon as it answers.

    Returns:
        What *serving* does.
    """
    looking = asyncio.create_task(_log_findings(settings), name="doctor")
    looking.add_done_callback(_handle_end)
    try:
        return await serving
    finally:
        looking.cancel()


def _handle_end(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled() and (error := looking.exception()) is not None:
        log.error("doctor_failed", exc_info=error)


async def _log_findings(settings: Settings) -> None:
    url = settings.redis_url.get_secret_value()
    while True:
        findings = await examine_redis(url, settings, with_self_test=False)
        if all(one.check != "reach" or one.verdict == "ok" for one in findings):
            break
        await asyncio.sleep(AGAIN_S)  # The reader says that it is away.
    for one in findings:
        if one.verdict != "ok":
            log.warning(
                "redis_setting",
                check=one.check,
                verdict=one.verdict,
                why=one.text,
                advice=one.advice,
                server=one.server,
            )
