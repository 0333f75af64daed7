"""Settings of what is kept of users: sessions, positions, commands, presence."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from broker.config.types import Seconds, SecondsOrZero, Word


class SessionSettings(BaseModel):
    """Open sessions, committed positions, commands and presence."""

    max_sessions_per_user: int = Field(
        3,
        ge=0,
        description="Open sessions of one user in the whole fleet; one more evicts the "
        "oldest. 0: no limit.",
    )
    evict_by: Annotated[Literal["start", "activity"], Word] = Field(
        "start",
        description="Which session is the oldest: by start, or by last activity as of "
        "the last renewal of its lease.",
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
