"""Settings: one frozen, documented value for the whole broker.

Every setting is an environment variable ``BROKER_<NAME>`` or a line of ``.env``;
the environment wins. ``load_settings`` is the only reader of either. A child process
never reads them: it gets the parent's effective settings (``Settings.for_boot``).
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from broker.errors import ConfigError
from broker.store.address import parse_url
from broker.store.keys import check_event_stream

PREFIX = "BROKER_"
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d{1,15})\s*(?:([kmg])(?:i?|ib)|b)?\Z", re.ASCII | re.IGNORECASE)
_UNITS = {None: 1, "k": KIB, "m": MIB, "g": GIB}
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]+\Z", re.IGNORECASE)


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value.strip())
    if match is None:
        raise ValueError("must be a number of bytes, or a number with KiB, MiB or GiB")
    return int(match[1]) * _UNITS[match[2].lower() if match[2] else None]


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


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


Word = BeforeValidator(_lowered)
Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseModel):
    """All settings after defaults, ``.env`` and environment were put together.

    The description of each field says its unit, its bound and what follows from it;
    ``broker config`` prints them. "Per worker" limits hold in each worker process.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    auth: Annotated[Literal["none", "api_key", "jwt"], Word] = Field(
        "none",
        description="Who may connect: none (everybody who reaches the port reads every "
        "session), api_key, or jwt.",
    )
    allow_insecure: bool = Field(
        False, description="Let auth=none listen on addresses other than loopback."
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
        description="Address of health checks and metrics; no credentials are asked.",
    )
    admin_port: int = Field(
        9090, ge=0, le=65535, description="Port of the admin server; 0: a free one."
    )
    admin_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer token of the server API on the admin port. Without one the "
        "API is off unless the port is on loopback or admin_open is set.",
    )
    admin_open: bool = Field(
        False,
        description="Let the server API answer without a token, where a network policy "
        "guards the admin port.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="auth=api_key: JSON array of hashed keys; broker key prints them.",
    )
    api_keys_file: str = Field(
        "", description="auth=api_key: file with the same JSON; read at start."
    )
    jwt_secret: SecretStr = Field(
        SecretStr(""),
        description="auth=jwt: secret of HS256 tokens, 32 bytes at least.",
    )
    jwt_public_key_file: str = Field(
        "", description="auth=jwt: PEM file with the public key of RS256 or ES256."
    )
    jwt_jwks_url: str = Field(
        "", description="auth=jwt: URL of the key set of RS256 or ES256 tokens."
    )
    jwks_cache_s: Seconds = Field(
        300, description="Seconds after which the key set is fetched again."
    )
    jwt_audience: str = Field(
        "",
        description="auth=jwt: what aud of a token must contain; empty: not checked.",
    )
    jwt_issuer: str = Field(
        "", description="auth=jwt: what iss of a token must be; empty: not checked."
    )
    jwt_leeway_s: SecondsOrZero = Field(
        5, description="Seconds by which clocks may differ when a token is checked."
    )
    auth_timeout_s: Seconds = Field(
        10,
        description="Seconds for the auth frame of a socket that came without token.",
    )
    token_in_query: bool = Field(
        False,
        description="Accept ?token=; proxies and browser histories keep URLs.",
    )
    token_warn_s: SecondsOrZero = Field(
        60, description="Seconds before its expiry that a client is told of it."
    )
    workers: int = Field(
        default_factory=_default_workers,
        ge=1,
        le=256,
        description="Worker processes. Default: usable cores minus one for the reader.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// URL of the primary, credentials "
        "included. Redis 7.0 or Valkey 7.2 at least.",
    )
    origins: str = Field(
        "",
        description="Comma-separated Origin values that browsers may come from; empty: "
        "only the host they connect to; *: any.",
    )
    event_stream: str = Field(
        "broker:events:{session}",
        description="Redis key of a session's event stream.",
    )
    command_stream: str = Field(
        "broker:commands",
        min_length=1,
        max_length=512,
        pattern=r"^[!-~]+$",
        description="Redis key of the stream that takes the clients' commands.",
    )
    command_backlog: int = Field(
        100_000,
        ge=1,
        description="Entries in the command stream above which commands are refused.",
    )
    command_rate_per_s: int = Field(
        20, ge=1, description="Commands per second and connection, after twice as many."
    )
    command_rate_per_user_per_s: int = Field(
        50,
        ge=1,
        description="Commands per second, user and worker, after twice as many.",
    )
    command_dedup_s: Seconds = Field(
        300, description="Seconds within which a command's id stores it only once."
    )
    command_timeout_s: Seconds = Field(
        3, description="Seconds after which a command without answer is unavailable."
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
    max_sessions_per_user: int = Field(
        3,
        ge=0,
        description="Open sessions of one user in the whole fleet; one more evicts the "
        "oldest. 0: no limit.",
    )
    evict_by: Annotated[Literal["start", "activity"], Word] = Field(
        "start", description="Which session is the oldest: by start or last activity."
    )
    session_lease_s: Seconds = Field(
        30,
        ge=1,
        description="Seconds a session is taken for open without word from its pod.",
    )
    session_linger_s: SecondsOrZero = Field(
        60, description="Seconds after its last connection until a session is idle."
    )
    session_idle_s: SecondsOrZero = Field(
        3600, description="Seconds that a session stays idle before it is closed."
    )
    presence: bool = Field(
        True, description="Keep in Redis which users are connected to a session."
    )
    lifecycle_connections: bool = Field(
        True, description="Also put connections of users into broker:lifecycle."
    )
    offset_ttl_s: float = Field(
        7 * 86_400,
        gt=0,
        le=366 * 86_400,
        allow_inf_nan=False,
        description="Seconds that a consumer's committed position is kept.",
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
        "supports it; blocking is for servers and proxies that do not.",
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

    @model_validator(mode="after")
    def _auth_can_work(self) -> Self:
        if self.auth == "api_key" and not (self.api_keys or self.api_keys_file):
            raise ValueError(
                "BROKER_AUTH=api_key needs BROKER_API_KEYS or BROKER_API_KEYS_FILE"
            )
        ways = (self.jwt_secret, self.jwt_public_key_file, self.jwt_jwks_url)
        if self.auth == "jwt" and sum(map(bool, ways)) != 1:
            raise ValueError(
                "BROKER_AUTH=jwt needs one of BROKER_JWT_SECRET, "
                "BROKER_JWT_PUBLIC_KEY_FILE and BROKER_JWT_JWKS_URL"
            )
        return self

    @field_validator("jwt_secret")
    @classmethod
    def _secret_is_long(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value().encode()) < 32:
            raise ValueError("must be at least 32 bytes long (RFC 7518 section 3.2)")
        return secret

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_usable(cls, url: SecretStr) -> SecretStr:
        _as_value_error(parse_url, url.get_secret_value())
        return url

    @field_validator("event_stream")
    @classmethod
    def _event_stream_is_safe(cls, pattern: str) -> str:
        _as_value_error(check_event_stream, pattern)
        return pattern

    @field_validator("command_stream")
    @classmethod
    def _command_stream_is_apart(cls, key: str, info: ValidationInfo) -> str:
        prefix = info.data.get("event_stream", "").partition("{")[0]
        if prefix and key.startswith(prefix):
            raise ValueError(f"must not begin with {prefix!r}: event streams do")
        return key

    @field_validator("origins")
    @classmethod
    def _origins_are_origins(cls, origins: str) -> str:
        for origin in _split(origins):
            if origin not in {"*", "null"} and not _ORIGIN.match(origin):
                raise ValueError("must list origins such as https://app.example.com")
        return origins

    @field_validator("ring_bytes")
    @classmethod
    def _ring_holds_events(cls, ring_bytes: int, info: ValidationInfo) -> int:
        if ring_bytes & (ring_bytes - 1):
            raise ValueError("must be a power of two, such as 64MiB")
        if ring_bytes < 16 * info.data.get("max_event_bytes", 0):
            raise ValueError("must be at least 16 times BROKER_MAX_EVENT_BYTES")
        return ring_bytes

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The entries of ``origins`` in lower case; empty means same host only."""
        return frozenset(_split(self.origins.lower()))

    @property
    def redis_address(self) -> str:
        """``redis_url`` without user, password and query: fit for logs and screens."""
        return str(parse_url(self.redis_url.get_secret_value()))

    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be printed, for ``broker.logs.configure_logs``."""
        password = parse_url(self.redis_url.get_secret_value()).password or ""
        texts = [password, quote(password, safe="")]
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


def load_settings(
    env: Mapping[str, str] | None = None, env_file: str | Path | None = ".env"
) -> Settings:
    """Read the settings from *env_file* and *env*; the latter wins.

    An empty value counts as not set. ``BROKER_TEST_*`` is left to the tests.

    Args:
        env: The environment; this process's own if None.
        env_file: Where to look for more; it need not exist. None: nowhere.

    Raises:
        ConfigError: A setting is unknown or unusable. The message names each with
            its value, unless that is secret, and what is allowed, one per line.
    """
    given = {**_read_env_file(env_file), **(os.environ if env is None else env)}
    ours = {
        name: value
        for name, value in given.items()
        if name.startswith(PREFIX) and not name.startswith("BROKER_TEST_") and value
    }
    fields = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    complaints = [_unknown(name, list(fields)) for name in ours if name not in fields]
    values = {fields[name]: value for name, value in ours.items() if name in fields}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        complaints += [
            _unusable(str(one["loc"][0]) if one["loc"] else "", one["msg"], values)
            for one in error.errors()
        ]
    else:
        if not complaints:
            return settings
    raise ConfigError("\n".join(sorted(complaints)))


def _read_env_file(path: str | Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        found = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return {name: value for name, value in found.items() if value is not None}


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; broker config lists them"
    if re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_TCP", name):
        # Kubernetes adds such variables for a Service whose name is "broker".
        hint = "; if Kubernetes made it, set enableServiceLinks: false in the pod"
    return f"{name} is not a setting{hint}"


def _unusable(field: str, message: str, values: Mapping[str, str]) -> str:
    name = f"{PREFIX}{field.upper()}"
    if name in message:
        return message.removeprefix("Value error, ")
    allowed = message.removeprefix("Value error, ").replace("Input should", "must")
    is_secret = Settings.model_fields[field].annotation is SecretStr
    if not is_secret and field in values:
        name = f"{name}={values[field]}"
    return f"{name}: {allowed}"


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
