"""What one server says about itself, judged. Pure: from what `probes` has read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from broker.config import Settings
from broker.doctor.finding import Finding, fail, ok, warn
from broker.store.server import MIN_VERSIONS

Facts = Mapping[str, str]
MIB: Final = 1024 * 1024
NORMAL_MIN_BYTES: Final = 64 * MIB
"""What an answer to the reader or to a replay may have to wait in Redis."""
PUBSUB_MIN_BYTES: Final = 8 * MIB
LAG_MAX_S: Final = 5
FULL_WARN, FULL_FAIL = 0.8, 0.95
TABLE_WARN, TABLE_FAIL = 0.5, 0.9
PER_WORKER, PER_POD = 3, 6
"""Connections to Redis."""
UNKNOWN: Final = "is not known: CONFIG GET is refused"


def judge_server(
    info: Facts, config: Facts, settings: Settings, *, in_cluster: bool = False
) -> Iterator[Finding]:
    """Everything that can be said without trying anything.

    Args:
        info: Of ``INFO``, as texts.
        config: Of ``CONFIG GET``; empty if that is refused.
        settings: Of the broker.
        in_cluster: Whether the URL is that of a cluster.
    """
    yield _version(info)
    if (info.get("cluster_enabled") == "1") != in_cluster:
        yield _wrong_mode(in_cluster)
    yield _role(info)
    yield _memory(info)
    yield _eviction(info)
    yield from _persistence(info, config)
    yield _tracking_table(info, config, settings)
    yield from _output_buffers(config)
    yield _clients(info, settings)
    yield from _replication(info, config)
    if config.get("timeout", "0") != "0":
        yield warn(
            "timeout",
            f"Redis closes connections that are idle for {config['timeout']} s",
            "set timeout 0",
        )


def _version(info: Facts) -> Finding:
    flavor = "valkey" if info.get("server_name") == "valkey" else "redis"
    version = info.get(f"{flavor}_version", "")
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers < MIN_VERSIONS[flavor]:
        return fail(
            "version",
            f"{flavor} {version or 'of unknown version'} cannot count lost entries",
            "use Redis 7.0 or Valkey 7.2 at least",
        )
    return ok("version", f"{flavor} {version}")


def _wrong_mode(in_cluster: bool) -> Finding:
    if in_cluster:
        return fail(
            "cluster",
            "the server is no node of a cluster, as BROKER_REDIS_URL says",
            "begin the URL with redis:// or rediss://",
        )
    return fail(
        "cluster",
        "the server is a node of a cluster and has a part of the keys only",
        "begin the URL with redis+cluster:// and name some nodes",
    )


def _role(info: Facts) -> Finding:
    if info.get("role") == "master":
        return ok("role", "the server is the primary")
    where = f"{info.get('master_host')}:{info.get('master_port')}"
    return fail(
        "role",
        f"the server is a replica of {where}: it takes no writes and no sessions",
        "name the primary in BROKER_REDIS_URL, or Sentinels that know it",
    )


def _memory(info: Facts) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return warn(
            "maxmemory",
            "Redis has no memory limit: it grows until the kernel kills it, and all "
            "that is not on disk is lost",
            "set maxmemory to about two thirds of the memory of its machine",
        )
    share = used / limit
    text = f"{used / MIB:.0f} of {limit / MIB:.0f} MiB are used"
    advice = "raise maxmemory, or publish with a smaller MAXLEN"
    if share > FULL_FAIL:
        return fail("maxmemory", f"{text}: writes are or will be refused", advice)
    if share > FULL_WARN:
        return warn("maxmemory", text, advice)
    return ok("maxmemory", text)


def _eviction(info: Facts) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return ok(
            "eviction", "noeviction: a full Redis refuses writes, deletes nothing"
        )
    advice = "set maxmemory-policy noeviction"
    if policy.startswith("volatile"):
        gone = "sessions, presence and commands seen before"
        text = f"{policy}: a full Redis deletes what has an expiry: {gone}"
        return warn("eviction", text, advice)
    text = f"{policy}: a full Redis deletes whole streams, of which clients are told "
    text += "as a reset, and sessions"
    make = fail if info.get("maxmemory", "0") != "0" else warn
    return make("eviction", text, advice)


def _persistence(info: Facts, config: Facts) -> Iterator[Finding]:
    states = {
        "rdb_last_bgsave_status": "snapshot",
        "aof_last_write_status": "write to the append-only file",
        "aof_last_bgrewrite_status": "rewrite of the append-only file",
    }
    for name, what in states.items():
        if info.get(name, "ok") != "ok":
            yield fail(
                "saving",
                f"the last {what} failed: Redis may refuse writes until one succeeds",
                "look into the log of Redis: the disk may be full or not writable",
            )
    if info.get("aof_enabled") == "1":
        yield ok("persistence", "an append-only file is written")
        return
    advice = "set appendonly yes, with appendfsync everysec"
    if config.get("save"):
        text = "there are snapshots only: a crash loses what came after the last one, "
        yield warn("persistence", text + "and clients are told a reset", advice)
    elif "save" in config:
        text = "nothing is saved: a restart loses all streams, sessions and commands"
        yield warn("persistence", text, advice)
    else:
        text = f"there is no append-only file; whether there are snapshots {UNKNOWN}"
        yield warn("persistence", text, advice)


def _tracking_table(info: Facts, config: Facts, settings: Settings) -> Finding:
    check = "tracking-table"
    if settings.reader_mode == "blocking":
        return ok(check, "not used: BROKER_READER_MODE=blocking")
    text = config.get("tracking-table-max-keys")
    if text is None:
        return warn(
            check,
            f"the limit of the tracking table {UNKNOWN}",
            "let the user run CONFIG GET, or see that the limit is high enough",
        )
    limit, keys = int(text), int(info.get("tracking_total_keys", 0))
    if not limit:
        return ok(check, "the tracking table has no limit")
    sessions = settings.max_subscriptions * settings.workers
    advice = f"set tracking-table-max-keys {max(4 * sessions, 1_000_000)}, or 0"
    share = keys / limit
    state = f"{keys} of {limit} keys of the tracking table are taken"
    if share > TABLE_FAIL:
        return fail(check, f"{state}: no further sessions can be read", advice)
    if share > TABLE_WARN:
        return warn(check, state, advice)
    if limit < sessions:
        more = f"fewer than this pod may read ({sessions} sessions)"
        return warn(check, f"{limit} keys fit into the tracking table: {more}", advice)
    return ok(check, state)


def _output_buffers(config: Facts) -> Iterator[Finding]:
    check = "output-buffers"
    if "client-output-buffer-limit" not in config:
        text = f"how much may wait for a connection in Redis {UNKNOWN}"
        yield warn(check, text, "let the user run CONFIG GET")
        return
    words = config["client-output-buffer-limit"].split()
    limits = {
        kind: min((int(one) for one in (hard, soft) if one != "0"), default=0)
        for kind, hard, soft in zip(words[::4], words[1::4], words[2::4], strict=True)
    }
    small = False
    for kind, least in (("normal", NORMAL_MIN_BYTES), ("pubsub", PUBSUB_MIN_BYTES)):
        limit = limits.get(kind, 0)
        if limit and limit < least:
            small = True
            text = f"Redis cuts {kind} connections for which {limit} bytes wait"
            again = "the broker reads again what it was reading, and may be cut again"
            rule = f"set client-output-buffer-limit {kind} {4 * least} {least} 60"
            yield warn(check, f"{text}: {again}", rule)
    if not small:
        yield ok(check, "enough may wait for a connection")


def _clients(info: Facts, settings: Settings) -> Finding:
    limit, now = int(info.get("maxclients", 0)), int(info.get("connected_clients", 0))
    need = PER_WORKER * settings.workers + PER_POD
    text = f"{now} of {limit} connections are open; a pod like this takes {need}"
    if limit and limit - now < need:
        return warn(
            "maxclients", f"{text}: not enough for another one", "raise maxclients"
        )
    return ok("maxclients", text)


def _replication(info: Facts, config: Facts) -> Iterator[Finding]:
    if info.get("role") != "master":
        return
    count = int(info.get("connected_slaves", 0))
    if not count:
        text = "no replica: without this server there are no events, no sessions"
        yield warn("replication", text, "add a replica, and Sentinels or a cluster")
        return
    late = [one for one in _replicas(info) if one.get("state") != "online"]
    late += [one for one in _replicas(info) if int(one.get("lag", 0)) > LAG_MAX_S]
    for one in late:
        where = f"{one.get('ip')}:{one.get('port')}"
        state = f"is {one.get('state')} and answered {one.get('lag')} s ago"
        text = f"the replica {where} {state}: a failover to it would lose writes"
        yield warn("replication", text, "look into its log, and at the network")
    if config.get("min-replicas-to-write", "") == "0":
        yield warn(
            "replication",
            "min-replicas-to-write is 0: a primary that is cut off goes on taking "
            "writes, and a failover discards them",
            "set min-replicas-to-write 1 and min-replicas-max-lag 10",
        )
    elif not late:
        yield ok("replication", f"replicas in step: {count}")


def _replicas(info: Facts) -> list[dict[str, str]]:
    count = int(info.get("connected_slaves", 0))
    lines = [info.get(f"slave{number}", "") for number in range(count)]
    return [
        dict(pair.split("=", 1) for pair in line.split(",") if "=" in pair)
        for line in lines
    ]
