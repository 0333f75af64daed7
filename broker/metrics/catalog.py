"""Every metric of the broker, in one table.

Importing this module gives each pair of metric and label values its place in the
row of numbers that a process counts in (see ``slots``)::

    values[catalog.DELIVERIES.slot] += 500
    values[catalog.DROPS.slots["trimmed"]] += 37
    values[catalog.RESUMES.slots["complete", "ring"]] += 1

Label values are closed lists, never the name of a session or a user, so the number
of time series is known before the first scrape. Names read
``broker_<noun>_<unit>[_total]``.
"""

from __future__ import annotations

import platform
from itertools import product

from broker import __version__
from broker.disconnect import Disconnect
from broker.entry import SKIP_REASONS
from broker.metrics.metric import Across, Kind, Labelled, Labels, Metric, Plain, Role

CATALOG: list[Metric] = []
"""All metrics, in the order of a scrape."""


def row_width() -> int:
    """How many numbers the row of a process has."""
    return sum(metric.kind.width * len(metric.slots) for metric in CATALOG)


def _plain(
    kind: Kind, role: Role | None, name: str, text: str, across: Across = Across.SUM
) -> Plain:
    slot = row_width()
    metric = Plain(name, text, kind, role, {(): slot}, across=across, slot=slot)
    CATALOG.append(metric)
    return metric


def _labelled(
    kind: Kind, role: Role | None, name: str, text: str, /, **labels: tuple[str, ...]
) -> Labelled:
    start = row_width()
    slots: dict[Labels, int] = {}
    for number, values in enumerate(product(*labels.values())):
        key = values if len(values) > 1 else values[0]
        slots[key] = start + number * kind.width
    metric = Labelled(name, text, kind, role, slots, labels=labels)
    CATALOG.append(metric)
    return metric


# --- Workers: connections ---------------------------------------------------------

PROTOCOLS = (
    "websocket",
    "sse",
    "openhands_v0",
    "openhands_v1",
    "openhands_session",
    "council",
)

CONNECTIONS = _labelled(
    Kind.GAUGE,
    "worker",
    "broker_connections_open",
    "Client connections that are open now.",
    protocol=PROTOCOLS,
)
SESSIONS = _plain(
    Kind.GAUGE,
    "worker",
    "broker_sessions_open",
    "Sessions that somebody reads; one that two workers serve counts two.",
)
USERS = _plain(
    Kind.GAUGE,
    "worker",
    "broker_users_connected",
    "Users with a name who have a connection; each worker counts its own.",
)
CONNECTIONS_OPENED = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_connections_opened_total",
    "Client connections that were accepted.",
    protocol=PROTOCOLS,
)
CLOSES = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_connections_closed_total",
    "Client connections that ended, by reason; lost: the peer vanished without a word.",
    code=(*(reason.label for reason in Disconnect), "lost"),
)
REFUSED = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_upgrades_refused_total",
    "Requests that did not become a connection, by reason.",
    reason=(
        *("bad_request", "forbidden", "not_found", "too_many_connections"),
        *("too_many_connections_per_user", "too_many_connections_per_session"),
        "too_many_subscriptions",
        *("accept_rate", "memory", "unavailable", "draining", "bad_upgrade"),
        *("unauthorized", "token_expired", "revoked", "too_many_consumers"),
        *("session_evicted", "session_closed"),
    ),
)
TOKENS_REFUSED = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_tokens_refused_total",
    "Tokens and keys that did not prove who their owner is, by what was wrong.",
    reason=(
        *("algorithm", "audience", "claims", "expired", "issuer", "malformed"),
        *("not_yet_valid", "signature", "unknown_key", "revoked", "unavailable"),
    ),
)
SESSIONS_ENDED = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_sessions_ended_total",
    "Sessions whose connections in this pod were ended, by reason.",
    reason=("evicted", "closed"),
)
COMMANDS = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_commands_total",
    "Application commands by result: stored in the command stream, or why not.",
    result=(
        *("stored", "rate_limited", "overloaded", "unavailable"),
        *("id_reused", "too_large"),
    ),
)
COMMAND_BACKLOG = _plain(
    Kind.GAUGE,
    "worker",
    "broker_command_backlog_entries",
    "Entries in the command stream, as each worker has counted them last.",
    Across.MAX,
)
COMMANDS_IN_FLIGHT = _plain(
    Kind.GAUGE,
    "worker",
    "broker_commands_in_flight",
    "Commands that Redis has not answered yet.",
)
COMMITS_PENDING = _plain(
    Kind.GAUGE,
    "worker",
    "broker_commits_pending",
    "Consumers with a position that is not stored yet.",
)
CONTROL_UP = _plain(
    Kind.GAUGE,
    "worker",
    "broker_control_connection_up",
    "Workers whose connection for sessions, commits and presence is in order.",
)
LEASE_RENEWALS = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_lease_renewals_total",
    "Leases of sessions renewed, found to have ended elsewhere, or not renewed.",
    result=("renewed", "lost", "failed"),
)
CLIENT_FRAMES = _plain(
    Kind.COUNTER,
    "worker",
    "broker_client_frames_total",
    "Text frames that clients sent.",
)
CLIENT_ERRORS = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_client_errors_total",
    "Client frames that were answered with an error, by its code.",
    code=(
        *("bad_json", "bad_frame", "bad_session", "bad_position"),
        *("already_subscribed", "not_subscribed", "too_many_subscriptions"),
        *("rate_limited", "unavailable", "not_found", "forbidden"),
        *("no_consumer", "not_delivered", "too_many_consumers"),
        *("already_authenticated", "unauthorized", "token_expired", "revoked"),
        *("session_evicted", "session_closed"),
    ),
)

# --- Workers: delivery ------------------------------------------------------------

SUBSCRIPTIONS = _labelled(
    Kind.GAUGE,
    "worker",
    "broker_subscriptions_open",
    "Subscriptions: at the tip, catching up, or behind because their socket is slow.",
    state=("live", "replaying", "lagging"),
)
DELIVERIES = _plain(
    Kind.COUNTER,
    "worker",
    "broker_events_delivered_total",
    "Events written to sockets: one event to ten sockets counts ten.",
)
DELIVERED_BYTES = _plain(
    Kind.COUNTER,
    "worker",
    "broker_delivered_bytes_total",
    "Bytes written to sockets, framing included.",
)
DRAINED = _plain(
    Kind.COUNTER,
    "worker",
    "broker_ring_drained_events_total",
    "Events that workers took from the ring: each worker counts each event.",
)
QUEUE_DEPTH = _labelled(
    Kind.GAUGE,
    "worker",
    "broker_queue_depth_entries",
    "Entries that subscriptions behind the tip have yet to be sent, or told lost.",
    state=("replaying", "lagging"),
)
QUEUE_DEPTH_MAX = _plain(
    Kind.GAUGE,
    "worker",
    "broker_queue_depth_max_entries",
    "Entries that the subscription furthest behind has yet to be sent.",
    Across.MAX,
)
QUEUE_DEPTH_BYTES = _plain(
    Kind.GAUGE,
    "worker",
    "broker_queue_depth_bytes",
    "About how many bytes these entries are: by the mean size of each session's.",
)
QUEUE_DEPTH_SUBSCRIPTIONS = _labelled(
    Kind.GAUGE,
    "worker",
    "broker_queue_depth_subscriptions",
    "Subscriptions that are more than so many entries behind the tip now.",
    entries_over=("0", "10", "100", "1000", "10000", "100000"),
)
QUEUE_BYTES = _plain(
    Kind.GAUGE,
    "worker",
    "broker_write_buffer_bytes",
    "Bytes that wait here for the kernel, of sockets with a subscription behind.",
)
DROPS = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_events_lost_total",
    "Entries announced to a client as not delivered, by reason.",
    reason=("trimmed", "transient", "conflated", "dropped", "reset"),
)
GAPS_UNKNOWN = _plain(
    Kind.COUNTER,
    "worker",
    "broker_gaps_unknown_total",
    "Gaps announced to a client whose size nobody can know.",
)
RESUMES = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_resumes_total",
    "Subscriptions by how they began and by what served the replay.",
    result=("live", "complete", "gap", "reset"),
    source=("ring", "redis", "none"),
)
REPLAYED = _labelled(
    Kind.COUNTER,
    "worker",
    "broker_events_replayed_total",
    "Events sent to subscriptions that were not at the tip, by source.",
    source=("ring", "redis"),
)
REPLAY_READS = _plain(
    Kind.COUNTER,
    "worker",
    "broker_replay_reads_total",
    "Pages that workers read from Redis for replays and history.",
)
REPLAY_SECONDS = _plain(
    Kind.HISTOGRAM,
    "worker",
    "broker_replay_seconds",
    "Time from a subscription's begin until it was at the tip.",
)
LAPPED = _plain(
    Kind.COUNTER,
    "worker",
    "broker_ring_lapped_total",
    "Times that the ring overwrote what a worker had not read.",
)
RING_CORRUPTED = _plain(
    Kind.COUNTER,
    "worker",
    "broker_ring_corrupted_total",
    "Ring records that broke the layout although nobody had overwritten them.",
)
LOOP_LAG = _plain(
    Kind.GAUGE,
    "worker",
    "broker_loop_lag_seconds",
    "How late the event loop of a worker ran a timer, at worst, in the last 15 s.",
    Across.WORKER,
)

PROBE_SECONDS = _plain(
    Kind.HISTOGRAM,
    "worker",
    "broker_probe_seconds",
    "Time from the id of a probe, by Redis' clock, until a worker took it.",
)
PROBE_AGE = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_probe_age_seconds",
    "Time since a worker heard a probe, or began; 0 while it has no process.",
    Across.WORKER,
)

# --- Reader -----------------------------------------------------------------------

EVENTS_READ = _plain(
    Kind.COUNTER,
    "reader",
    "broker_events_read_total",
    "Entries read from Redis and written to the ring.",
)
BYTES_READ = _plain(
    Kind.COUNTER,
    "reader",
    "broker_read_bytes_total",
    "Bytes of the names and values of the entries read.",
)
SKIPPED = _labelled(
    Kind.COUNTER,
    "reader",
    "broker_events_skipped_total",
    "Entries that broke the publishing contract, by reason.",
    reason=SKIP_REASONS,
)
RINGS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_doorbell_rings_total",
    "Invalidations that Redis pushed for watched sessions.",
)
EMPTY_READS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_doorbell_empty_reads_total",
    "Sessions read, after a ring or when opened, in which nothing new was found.",
)
DOORBELL_MISSED = _plain(
    Kind.COUNTER,
    "reader",
    "broker_doorbell_missed_total",
    "Entries first found by the sweep: no ring announced them.",
)
READS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_reads_total",
    "Reads sent to Redis, each for one or more sessions.",
)
READ_ERRORS = _labelled(
    Kind.COUNTER,
    "reader",
    "broker_read_errors_total",
    "Reads that Redis refused or did not answer, by kind.",
    kind=("wrongtype", "busy", "timeout", "other"),
)
REDIS_UP = _plain(
    Kind.GAUGE,
    "reader",
    "broker_redis_up",
    "1 while the reader's connection to Redis is in order.",
)
TRACKING = _plain(
    Kind.GAUGE,
    "reader",
    "broker_redis_tracking",
    "1 while Redis rings for changes; 0 in the mode of blocking reads.",
)
TRACKING_WANTED = _plain(
    Kind.GAUGE,
    "reader",
    "broker_redis_tracking_wanted",
    "1 once the reader is connected, unless the settings ask for blocking reads.",
)
TRACKING_KEYS = _plain(
    Kind.GAUGE,
    "reader",
    "broker_tracking_keys",
    "Keys in the tracking table of the Redis server, of all its clients.",
)
TRACKING_ITEMS = _plain(
    Kind.GAUGE,
    "reader",
    "broker_tracking_items",
    "Pairs of key and client in the tracking table of the Redis server.",
)
TRACKING_LIMIT = _plain(
    Kind.GAUGE,
    "reader",
    "broker_tracking_keys_limit",
    "Keys that the tracking table of the Redis server can hold.",
)
WATCHED = _plain(
    Kind.GAUGE,
    "reader",
    "broker_sessions_watched",
    "Sessions that the reader reads.",
)
QUARANTINED = _plain(
    Kind.GAUGE,
    "reader",
    "broker_sessions_quarantined",
    "Watched sessions that are read seldom because reading them fails.",
)
RESETS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_resets_total",
    "Watched streams that turned out to be another one than before.",
)
GAP_ENTRIES = _plain(
    Kind.COUNTER,
    "reader",
    "broker_gap_entries_total",
    "Entries that were removed from a watched stream before they were read.",
)
PAUSED_SECONDS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_read_paused_seconds_total",
    "Time in which the reader waited for workers that were half a ring behind.",
)
ODD_IDS = _plain(
    Kind.COUNTER,
    "reader",
    "broker_odd_ids_total",
    "Entries whose id lies beyond the year 9999.",
)
RING_BYTES_WRITTEN = _plain(
    Kind.COUNTER,
    "reader",
    "broker_ring_written_bytes_total",
    "Bytes written to the ring.",
)

READER_LOOP_LAG = _plain(
    Kind.GAUGE,
    "reader",
    "broker_reader_loop_lag_seconds",
    "How late the event loop of the reader ran a timer, at worst, in the last 15 s.",
)

# --- All processes ----------------------------------------------------------------

ROLES = ("reader", "worker", "supervisor")

REDIS_COMMANDS = _labelled(
    Kind.COUNTER,
    None,
    "broker_redis_commands_total",
    "Commands sent to Redis, by the processes that sent them.",
    role=ROLES,
)
RECONNECTS = _labelled(
    Kind.COUNTER,
    None,
    "broker_redis_reconnects_total",
    "Times that a lasting connection to Redis was lost or not made, and tried again.",
    role=ROLES,
)
# The rest of this part is what the supervisor finds out when a scrape comes.
MEMORY_RESIDENT = _labelled(
    Kind.GAUGE,
    "supervisor",
    "broker_process_resident_memory_bytes",
    "Memory that processes have in use, shared parts in each of them.",
    process=ROLES,
)
DESCRIPTORS = _labelled(
    Kind.GAUGE,
    "supervisor",
    "broker_open_descriptors",
    "Descriptors of the process of a role that has most open.",
    process=ROLES,
)
DESCRIPTORS_LIMIT = _labelled(
    Kind.GAUGE,
    "supervisor",
    "broker_descriptors_limit",
    "Descriptors that one process of a role may have open.",
    process=ROLES,
)

# --- All stages -------------------------------------------------------------------

STAGE_SECONDS = _labelled(
    Kind.HISTOGRAM,
    "worker",
    "broker_stage_seconds",
    "Time that an event took for a stage of its way.",
    stage=("redis_to_reader", "reader_to_socket"),
)

# --- Supervisor -------------------------------------------------------------------

RESTARTS = _labelled(
    Kind.COUNTER,
    "supervisor",
    "broker_child_restarts_total",
    "Child processes started again after they had ended by themselves or were killed.",
    role=("reader", "worker"),
)
HUNG_KILLS = _labelled(
    Kind.COUNTER,
    "supervisor",
    "broker_child_hung_kills_total",
    "Child processes killed because their event loop stood still.",
    role=("reader", "worker"),
)
WORKERS_UP = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_workers_up",
    "Workers that are ready and whose event loop turns.",
)
WORKER_SILENT = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_worker_silent_seconds",
    "Time since the event loop of a worker last turned; 0 while it has no process.",
    Across.WORKER,
)
RING_UNREAD_BYTES = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_ring_unread_bytes",
    "Bytes of the ring that a worker has yet to read.",
    Across.WORKER,
)
RING_BYTES = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_ring_bytes",
    "Size of the ring: a worker that has so much unread is lapped.",
)
DEAF_KILLS = _labelled(
    Kind.COUNTER,
    "supervisor",
    "broker_child_deaf_kills_total",
    "Child processes killed because workers heard no probe although they were sent.",
    role=("reader", "worker"),
)
WORKERS_DEAF = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_workers_deaf",
    "Workers whose event loop turns and that heard none of the last probes.",
)
READY = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_ready",
    "1 while /readyz says that new clients may come.",
)
DRAINING = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_draining",
    "1 from the first signal to stop on.",
)
CONNECTIONS_LIMIT = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_connections_limit",
    "Connections that all workers together may have open.",
)
MEMORY = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_memory_bytes",
    "Memory in use in the container, or on the machine where nothing limits it.",
)
MEMORY_LIMIT = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_memory_limit_bytes",
    "Memory of the container, or of the machine where nothing limits it.",
)
START_TIME = _plain(
    Kind.GAUGE,
    "supervisor",
    "broker_start_time_seconds",
    "Unix time at which the supervisor started.",
)
BUILD_INFO = _labelled(
    Kind.GAUGE,
    "supervisor",
    "broker_build_info",
    "Always 1; the labels tell which broker runs on which Python.",
    version=(__version__,),
    python=(platform.python_version(),),
)
