"""The doctor finds out what is wrong with real servers."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker import cli
from broker.config import Settings, load_settings
from broker.doctor.examine import examine_redis
from broker.doctor.finding import Finding
from broker.store.embedded import EmbeddedServer, free_port
from tests.conftest import RedisAt, StartBroker, StartRedis

NOWHERE = "redis://127.0.0.1:1/0"
NOT_YET = ("there are no events, no sessions", "would lose writes")
"""What is found while a replica is about to be one."""
AT_ONCE = ("--repl-diskless-sync-delay", "0")
GOOD = ("--maxmemory", "1gb")
Doctor = Callable[..., Result]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Doctor:
    """Runs the command with the given settings only."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **settings: object) -> Result:
        env = {f"BROKER_{name.upper()}": str(one) for name, one in settings.items()}
        return CliRunner().invoke(cli.main, ["doctor", *arguments], env=env)

    return run


def settings(**given: object) -> Settings:
    env = {f"BROKER_{name.upper()}": str(one) for name, one in given.items()}
    return load_settings(env, None)


async def examine(url: str, check: str, **given: object) -> list[Finding]:
    """What is found under the name of one check."""
    findings = await examine_redis(url, settings(**given))
    return [one for one in findings if one.check == check]


@pytest.mark.parametrize(
    ("arguments", "check", "verdict", "text", "advice"),
    [
        (GOOD, "version", "ok", ".", ""),
        (GOOD, "role", "ok", "is the primary", ""),
        (GOOD, "maxmemory", "ok", "of 1024 MiB", ""),
        ((), "maxmemory", "warn", "no memory limit", "set maxmemory"),
        (
            ("--maxmemory", "1mb", "--maxmemory-clients", "0"),
            "maxmemory",
            "fail",
            "writes are or will be refused",
            "raise maxmemory",
        ),
        (GOOD, "eviction", "ok", "noeviction", ""),
        (
            (*GOOD, "--maxmemory-policy", "allkeys-lru"),
            "eviction",
            "fail",
            "deletes whole streams",
            "maxmemory-policy noeviction",
        ),
        (
            ("--maxmemory-policy", "allkeys-lru"),
            "eviction",
            "warn",
            "deletes whole streams",
            "maxmemory-policy noeviction",
        ),
        (
            (*GOOD, "--maxmemory-policy", "volatile-ttl"),
            "eviction",
            "warn",
            "deletes what has an expiry",
            "maxmemory-policy noeviction",
        ),
        ((), "persistence", "warn", "nothing is saved", "appendonly yes"),
        (("--save", "900 1"), "persistence", "warn", "snapshots only", "appendonly"),
        (("--appendonly", "yes"), "persistence", "ok", "append-only", ""),
        ((), "tracking", "ok", "works", ""),
        ((), "tracking-table", "ok", "0 of 1000000 keys", ""),
        (
            ("--tracking-table-max-keys", "1000"),
            "tracking-table",
            "warn",
            "fewer than this pod may read (4000 sessions)",
            "tracking-table-max-keys 1000000",
        ),
        (("--tracking-table-max-keys", "0"), "tracking-table", "ok", "no limit", ""),
        ((), "output-buffers", "ok", "enough", ""),
        (
            ("--client-output-buffer-limit", "normal", "1mb", "0", "0"),
            "output-buffers",
            "warn",
            "cuts normal connections for which 1048576 bytes wait",
            "client-output-buffer-limit normal 268435456",
        ),
        (
            ("--client-output-buffer-limit", "pubsub", "64mb", "1mb", "60"),
            "output-buffers",
            "warn",
            "cuts pubsub connections for which 1048576 bytes wait",
            "client-output-buffer-limit pubsub 33554432",
        ),
        ((), "maxclients", "ok", "a pod like this takes 12", ""),
        (("--maxclients", "12"), "maxclients", "warn", "of 12", "raise maxclients"),
        (("--timeout", "60"), "timeout", "warn", "idle for 60 s", "timeout 0"),
        ((), "replication", "warn", "no replica", "add a replica"),
        ((), "clock", "ok", "agree", ""),
        ((), "rights", "ok", "everything", ""),
    ],
)
async def test_setting_of_a_server_is_judged(
    start_redis: StartRedis,
    arguments: tuple[str, ...],
    check: str,
    verdict: str,
    text: str,
    advice: str,
) -> None:
    """One finding for each check, with what to do where something is wrong."""
    server = start_redis(*arguments)
    (found,) = await examine(server.url, check, workers=2, max_subscriptions=2000)

    assert (found.verdict, found.server) == (verdict, server.url)
    assert text in found.text
    assert advice in found.advice
    assert bool(found.advice) == (verdict != "ok")


async def test_replica_is_no_place_for_a_broker(start_redis: StartRedis) -> None:
    """It says whose replica it is; the primary is told about its replica."""
    primary = start_redis(*AT_ONCE)
    replica = start_redis("--replicaof", f"127.0.0.1 {primary.port}")
    (role,) = await examine(replica.url, "role")
    await in_step(primary.url)
    (alone,) = await examine(primary.url, "replication")
    primary.kill()  # It would wait for its replica.

    assert role.verdict == "fail"
    assert f"a replica of 127.0.0.1:{primary.port}" in role.text
    assert alone.verdict == "warn"
    assert "min-replicas-to-write is 0" in alone.text


async def in_step(url: str) -> None:
    """Wait until the replica of a server has copied everything."""
    async with asyncio.timeout(30):
        while True:
            found = await examine(url, "replication")
            if not any(one.text.endswith(NOT_YET) for one in found):
                return
            await asyncio.sleep(0.05)


async def test_replica_that_is_bound_to_be_there_is_in_order(
    start_redis: StartRedis,
) -> None:
    """A primary that is cut off stops to take writes."""
    primary = start_redis(*AT_ONCE, "--min-replicas-to-write", "1")
    start_redis("--replicaof", f"127.0.0.1 {primary.port}")
    await in_step(primary.url)
    (found,) = await examine(primary.url, "replication")
    primary.kill()  # It would wait for its replica.

    assert (found.verdict, found.text) == ("ok", "replicas in step: 1")


async def test_save_that_failed_is_found(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """The next one would stop all writes."""
    server = start_redis("--save", "900 1")
    redis: Any = redis_at(server.url)
    shutil.rmtree(server.directory)
    await redis.bgsave()
    async with asyncio.timeout(20):
        while not (found := await examine(server.url, "saving")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    server.kill()  # It would not end without saving.

    assert found[0].verdict == "fail"
    assert "the last snapshot failed" in found[0].text


async def test_cluster_node_needs_another_url(start_redis: StartRedis) -> None:
    """And the other way round."""
    bus = str(free_port())
    node = start_redis("--cluster-enabled", "yes", "--cluster-port", bus)
    (found,) = await examine(node.url, "cluster")
    single = start_redis()
    (reach,) = await examine(single.url.replace("redis:", "redis+cluster:"), "reach")

    assert found.verdict == "fail"
    assert "redis+cluster://" in found.advice
    assert reach.verdict == "fail"


async def test_every_primary_of_a_cluster_is_looked_at(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Under its own address, with what only a node is asked."""
    bus = str(free_port())
    node = start_redis(*GOOD, "--cluster-enabled", "yes", "--cluster-port", bus)
    redis: Any = redis_at(node.url)
    await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    url = node.url.replace("redis:", "redis+cluster:")
    async with asyncio.timeout(20):
        while (await examine(url, "reach"))[0].verdict != "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    found = await examine_redis(url, settings(redis_url=url))

    assert {one.server for one in found} == {node.url}
    assert [one.check for one in found if one.verdict == "fail"] == []
    assert "rights" in {one.check for one in found if one.verdict == "ok"}


class TestRights:
    @pytest.fixture
    async def limited(self, start_redis: StartRedis, redis_at: RedisAt) -> Any:
        """Makes a user with all rights but some; gives its URL."""
        server = start_redis()

        async def make(*rules: str) -> str:
            redis: Any = redis_at(server.url)
            every = ("reset", "on", ">secret", "~*", "&*", "+@all")
            await redis.execute_command("ACL", "SETUSER", "limited", *every, *rules)
            return server.url.replace("redis://", "redis://limited:secret@")

        return make

    async def test_commands_that_are_denied_are_named(self, limited: Any) -> None:
        """So are keys and channels, and the whole line that would be right."""
        url = await limited("-xinfo|stream", "-evalsha", "-blpop", "resetchannels")
        (found,) = await examine(url, "rights")

        assert found.verdict == "fail"
        for right in ("+xinfo|stream", "+evalsha", "+blpop", "+subscribe", "+publish"):
            assert right in found.text
        assert "user broker on >PASSWORD ~broker:* &broker:* -@all" in found.advice

    async def test_nothing_is_done_to_find_out(
        self, limited: Any, redis_at: RedisAt
    ) -> None:
        """Not a key is left, whatever may be written."""
        url = await limited()
        await examine(url, "rights")

        assert await redis_at(url).dbsize() == 0

    @pytest.mark.parametrize("right", ["multi", "discard"])
    async def test_a_transaction_that_may_not_be_had_is_not_tried(
        self, limited: Any, redis_at: RedisAt, right: str
    ) -> None:
        """Else its commands would be done, or no later one would be answered."""
        url = await limited(f"-{right}")
        (rights,) = await examine(url, "rights")
        (clock,) = await examine(url, "clock")

        assert rights.verdict == "fail"
        assert f"+{right}" in rights.text
        assert clock.verdict == "ok"
        assert await redis_at(url).dbsize() == 0

    async def test_tracking_that_is_denied_costs_speed_or_everything(
        self, limited: Any
    ) -> None:
        """As the settings have it."""
        url = await limited("-client|tracking")
        (auto,) = await examine(url, "tracking")
        (wanted,) = await examine(url, "tracking", reader_mode="tracking")
        (unused,) = await examine(url, "tracking", reader_mode="blocking")

        assert [one.verdict for one in (auto, wanted, unused)] == ["warn", "fail", "ok"]

    async def test_config_that_is_denied_leaves_questions(self, limited: Any) -> None:
        """Managed services deny it; that is no reason to fail."""
        url = await limited("-config")
        found = await examine_redis(url, settings())
        asked = {one.check: one.verdict for one in found if "CONFIG" in one.text}

        assert asked == dict.fromkeys(
            ("persistence", "tracking-table", "output-buffers"), "warn"
        )
        assert all(one.verdict != "fail" for one in found)

    async def test_info_that_is_denied_is_a_failure(self, limited: Any) -> None:
        """Without it the broker does not know which server it reads."""
        (found,) = await examine(await limited("-info"), "facts")

        assert found.verdict == "fail"


class TestCommand:
    def test_good_server_is_status_0(
        self, doctor: Doctor, start_redis: StartRedis
    ) -> None:
        """A line for each check; warnings are none of the exit status."""
        server = start_redis(*GOOD)
        result = doctor(redis_url=server.url)
        verdicts = {
            line.split(":")[0].split()[1] for line in result.stdout.splitlines()
        }

        assert result.exit_code == 0
        assert {"reach", "eviction", "clock", "descriptors", "memory"} <= verdicts

    def test_bad_server_is_status_1_and_says_what_to_do(
        self, doctor: Doctor, start_redis: StartRedis
    ) -> None:
        """The URL on the command line wins over the settings."""
        server = start_redis(*GOOD, "--maxmemory-policy", "allkeys-lru")
        result = doctor("--url", server.url, redis_url=NOWHERE)
        (line,) = [one for one in result.stdout.splitlines() if " eviction:" in one]

        assert result.exit_code == 1
        assert line.startswith("fail  eviction: allkeys-lru: ")
        assert line.endswith("What to do: set maxmemory-policy noeviction")

    def test_json_has_the_same_for_programs(
        self, doctor: Doctor, start_redis: StartRedis
    ) -> None:
        """One object per line."""
        server = start_redis(*GOOD)
        result = doctor("--json", redis_url=server.url)
        found = {
            one["check"]: one for one in map(json.loads, result.stdout.splitlines())
        }

        assert found["eviction"] == {
            "check": "eviction",
            "verdict": "ok",
            "text": "noeviction: a full Redis refuses writes, deletes nothing",
            "advice": "",
            "server": server.url,
        }

    def test_server_that_is_away_is_one_finding(self, doctor: Doctor) -> None:
        """The password is not shown, and this machine is looked at all the same."""
        result = doctor("--url", NOWHERE.replace("127", ":canary@127"))

        assert result.exit_code == 1
        assert result.stdout.startswith("fail  reach: redis://127.0.0.1:1/0: ")
        assert "canary" not in result.output
        assert "descriptors:" in result.stdout

    def test_url_that_is_none_is_status_2(self, doctor: Doctor) -> None:
        """It is a mistake of who types."""
        assert doctor("--url", "http://h").exit_code == 2


def test_broker_logs_at_its_start_what_is_wrong(
    start_redis: StartRedis, start_broker: StartBroker
) -> None:
    """Once, as warnings: it serves all the same."""
    server: EmbeddedServer = start_redis(*GOOD, "--maxmemory-policy", "allkeys-lru")
    broker = start_broker(server.url)
    line = broker.log.wait_for(lambda text: '"check":"eviction"' in text, 20)

    assert line is not None
    told = json.loads(line)
    assert told["level"] == "warning"
    assert told["advice"] == "set maxmemory-policy noeviction"
