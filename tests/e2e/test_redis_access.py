"""A broker works over a Unix socket, in another database, and with few rights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker.config import load_settings
from broker.doctor.rights import EVERYWHERE, acl_line
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness.errand import run_errand


async def test_broker_works_over_a_unix_socket_in_another_database(
    start_redis: StartRedis,
    start_broker: StartBroker,
    redis_at: RedisAt,
    tmp_path: Path,
) -> None:
    """Nothing of it lies in the database that a connection begins with."""
    path = tmp_path / "redis.sock"
    server = start_redis("--unixsocket", str(path))
    broker = start_broker(f"unix://{path}?db=5", max_sessions_per_user=1)
    await run_errand(broker, redis_at(server.url.replace("/0", "/5")))

    assert await redis_at(server.url).dbsize() == 0


async def test_broker_works_with_the_least_rights(
    start_redis: StartRedis, start_broker: StartBroker, redis_at: RedisAt
) -> None:
    """Redis notes every command that it denies, and there is none."""
    server = start_redis()
    redis: Any = redis_at(server.url)
    line = acl_line(load_settings({}, None)).replace(">PASSWORD", ">p%ss")
    await redis.execute_command("ACL", "SETUSER", *line.split()[1:])
    url = server.url.replace("redis://", "redis://broker:p%25ss@")
    broker = start_broker(url, max_sessions_per_user=1, command_backlog=1)
    await run_errand(broker, redis)
    await until_trimmed(redis)
    broker.stop()

    assert [one["object"] for one in await redis.acl_log()] == []
    assert "redis_setting" in broker.log.text
    assert "the user may not" not in broker.log.text


async def until_trimmed(redis: Any) -> None:
    """Work on the commands, and wait until the broker removes what is done."""
    await redis.xgroup_create("broker:commands", "g", "0")
    found = await redis.xreadgroup("g", "c", {"broker:commands": ">"})
    for entry_id, _ in found[b"broker:commands"][0]:
        await redis.xack("broker:commands", "g", entry_id)
    async with asyncio.timeout(20):
        while await redis.xlen("broker:commands"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("setting", "pattern"),
    [
        ({"BROKER_EVENT_STREAM": "app:{session}:events"}, " ~app:*:events "),
        ({"BROKER_COMMAND_STREAM": "app-commands"}, " ~app-commands "),
        ({"BROKER_REDIS_URL": "redis+cluster://h"}, " +cluster|slots "),
        ({"BROKER_REDIS_URL": "redis://h/2"}, " +select"),
        ({}, f" -@all {' '.join(EVERYWHERE)} "),
    ],
)
def test_acl_line_follows_the_settings(setting: dict[str, str], pattern: str) -> None:
    """Streams under other names, and what only a cluster is asked."""
    assert pattern in acl_line(load_settings(setting, None))
