"""One frozen, documented value for the whole broker."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from broker.config.access import AccessSettings
from broker.config.edges import EdgeSettings
from broker.config.sessions import SessionSettings
from broker.config.types import GIB, KIB, MIB, Seconds, SecondsOrZero, Size, Word
from broker.errors import ConfigError
from broker.store.address import parse_url
from broker.store.keys import check_command_stream, check_event_stream


def _default_workers() -> int:
    """One core stays for the reader; a container's CPU quota counts as its cores."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return max(1, cores - 1)
    if quota != "max":
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores - 1)


def _lets_only_this_machine_in(earlier: dict[str, Any]) -> bool:
    return earlier.get("auth") == "none" and not earlier.get("allow_insecure")


def _default_host(earlier: dict[str, Any]) -> str:
    local = _lets_only_this_machine_in(earlier)
    return "127.0.0.1" if local else "0.0.0.0"  # noqa: S104  meant to be reached


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _as_value_error(check: Callable[[str], object], text: str) -> None:
    try:
        check(text)
    except ConfigError as error:  # which pydantic does not collect
        raise ValueError(str(error)) from None


class Settings(EdgeSettings, SessionSettings, AccessSettings):
    """All settings after defaults, ``.env`` and environment were put together.

    The description of each field says its unit, its bound and what follows from it;
    ``broker config`` prints them. "Per worker" limits hold in each worker process.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    host: str = Field(
        default_factory=_default_host,
        min_length=1,
        description="Address for clients; loopback with auth=none, see allow_insecure.",
    )
    port: int = Field(
        8080, ge=0, le=65535, description="Port for clients; 0: a free one."
    )
    admin_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address of health, metrics and the server API; see admin_token.",
    )
    admin_port: int = Field(
        9090, ge=0, le=65535, description="Port of the admin server; 0: a free one."
    )
    workers: int = Field(
        default_factory=_default_workers,
        ge=1,
        le=256,
        description="Worker processes. Default: usable cores minus one for the reader.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// URL of the primary, or "
        "redis+sentinel:// of Sentinels with the service, or redis+cluster:// of some "
        "nodes (rediss+... for TLS), credentials included. Redis 7.0 or Valkey 7.2 at "
        "least.",
    )
    event_stream: str = Field(
        "broker:events:{session}",
        description="Redis key of a session's event stream.",
    )
    max_event_bytes: Size = Field(
        MIB,
        ge=KIB,
        le=64 * MIB,
        description="Largest entry, names and values added up; others are skipped.",
    )
    ring_bytes: Size = Field(
        64 * MIB,
        ge=MIB,
        le=16 * GIB,
        description="Shared memory between reader and workers, and so how far back a "
        "resume costs Redis nothing. A power of two, at least 16 max_event_bytes.",
    )
    max_frame_bytes: Size = Field(
        64 * KIB,
        ge=125,
        le=64 * MIB,
        description="Largest message from a client; a larger one closes with 1009.",
    )
    heartbeat_s: Seconds = Field(
        25, description="Seconds between heartbeats and pings to each connection."
    )
    handshake_s: Seconds = Field(
        10, description="Seconds a client has to finish its HTTP request."
    )
    drain_delay_s: SecondsOrZero = Field(
        5,
        description="Seconds at shutdown between failing readiness and refusing "
        "connections; a load balancer must notice within them.",
    )
    drain_s: SecondsOrZero = Field(
        20, description="Seconds over which shutdown spreads the closes of connections."
    )
    linger_s: SecondsOrZero = Field(
        30, description="Seconds a session stays watched after its last subscription."
    )
    sweep_s: Seconds = Field(
        10, description="Seconds within which every watched stream is read once."
    )
    hang_s: Seconds = Field(
        15, description="Seconds without a heartbeat before a child process is killed."
    )
    lag_timeout_s: Seconds = Field(
        600, description="Seconds a socket may take nothing before it is closed (4002)."
    )
    max_connections: int = Field(
        15_000, ge=1, description="Open connections per worker; more are refused (503)."
    )
    max_connections_per_user: int = Field(
        0, ge=0, description="Open connections of one user per worker; 0: no limit."
    )
    max_connections_per_session: int = Field(
        0, ge=0, description="Open connections to one session per worker; 0: no limit."
    )
    connection_limit_action: Annotated[Literal["refuse", "evict_oldest"], Word] = Field(
        "refuse",
        description="What a connection over the limit of its session or user meets: it "
        "is refused, or the oldest one there is closed (4512).",
    )
    accept_rate_per_s: int = Field(
        5000, ge=1, description="New connections per second and worker; more get 503."
    )
    max_subscriptions_per_connection: int = Field(
        100, ge=1, description="Sessions that one connection may read at a time."
    )
    max_subscriptions_per_user: int = Field(
        300, ge=1, description="Sessions that one user may read at a time, per worker."
    )
    max_subscriptions: int = Field(
        100_000, ge=1, description="Subscriptions per worker; more are refused."
    )
    subscribe_rate_per_s: int = Field(
        20,
        ge=1,
        description="Subscribe commands per second and connection, after a burst of "
        "max_subscriptions_per_connection.",
    )
    max_replay_entries: int = Field(
        10_000, ge=1, description="Largest N of last_event_id=-N and of a history page."
    )
    write_buffer_bytes: Size = Field(
        64 * KIB,
        ge=KIB,
        le=64 * MIB,
        description="Unsent bytes in the process above which a subscription lags.",
    )
    notsent_lowat_bytes: Size = Field(
        32 * KIB,
        ge=KIB,
        le=64 * MIB,
        description="Unsent bytes that the kernel may hold per socket "
        "(TCP_NOTSENT_LOWAT); larger costs memory for every stalled client.",
    )
    memory_high_ratio: float = Field(
        0.9,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Part of the memory limit above which newcomers are refused (503).",
    )
    reader_mode: Annotated[Literal["auto", "tracking", "blocking"], Word] = Field(
        "auto",
        description="How new entries are noticed: auto takes tracking where Redis "
        "supports it; blocking is for servers and proxies that do not, but for no "
        "cluster.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Word] = Field(
        "info", description="Least important level that is logged."
    )
    log_format: Annotated[Literal["auto", "json", "text"], Word] = Field(
        "auto", description="auto: text on a terminal, JSON lines elsewhere."
    )

    @field_validator("host")
    @classmethod
    def _host_is_safe(cls, host: str, info: ValidationInfo) -> str:
        if _lets_only_this_machine_in(info.data) and not _is_loopback(host):
            raise ValueError(
                "must be a loopback address while BROKER_AUTH=none, or set "
                "BROKER_ALLOW_INSECURE=true to let everybody in"
            )
        return host

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_usable(cls, url: SecretStr) -> SecretStr:
        _as_value_error(parse_url, url.get_secret_value())
        return url

    @field_validator("command_stream")
    @classmethod
    def _command_stream_is_apart(cls, key: str) -> str:
        _as_value_error(check_command_stream, key)
        return key

    @field_validator("event_stream")
    @classmethod
    def _event_stream_is_safe(cls, pattern: str, info: ValidationInfo) -> str:
        _as_value_error(check_event_stream, pattern)
        prefix = pattern.partition("{")[0]
        if str(info.data.get("command_stream", "")).startswith(prefix):
            raise ValueError(
                f"BROKER_COMMAND_STREAM must not begin with {prefix!r}: clients read "
                "what does"
            )
        return pattern

    @field_validator("ring_bytes")
    @classmethod
    def _ring_holds_events(cls, ring_bytes: int, info: ValidationInfo) -> int:
        if ring_bytes & (ring_bytes - 1):
            raise ValueError("must be a power of two, such as 64MiB")
        if ring_bytes < 16 * info.data.get("max_event_bytes", 0):
            raise ValueError("must be at least 16 times BROKER_MAX_EVENT_BYTES")
        return ring_bytes

    @property
    def redis_address(self) -> str:
        """``redis_url`` without user, password and query: fit for logs and screens."""
        return str(parse_url(self.redis_url.get_secret_value()))

    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be printed, for ``broker.logs.configure_logs``."""
        address = parse_url(self.redis_url.get_secret_value())
        passwords = (address.password, address.options.get("sentinel_password", ""))
        texts = [text for one in passwords for text in (one, quote(one, safe=""))]
        texts += [secret.get_secret_value() for secret in self._secrets().values()]
        return tuple(text for text in texts if text)

    def shown(self) -> dict[str, str]:
        """Every setting as a person may see it, by field name; no secrets."""
        values = dict(self) | {"redis_url": self.redis_address}
        return {
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in values.items()
        }

    def for_boot(self) -> dict[str, object]:
        """The settings as JSON-ready values, secrets included: never log them."""
        secrets = {
            name: secret.get_secret_value() for name, secret in self._secrets().items()
        }
        url = self.redis_url.get_secret_value()
        return dict(self) | secrets | {"redis_url": url}

    def _secrets(self) -> dict[str, SecretStr]:
        """All but the URL, of which a part may be seen."""
        return {
            name: value
            for name, value in self
            if isinstance(value, SecretStr) and name != "redis_url"
        }

    @classmethod
    def from_boot(cls, values: Mapping[str, object]) -> Settings:
        """Rebuild settings from ``for_boot`` in a child process."""
        return cls.model_validate(dict(values))
