"""The bodies of the server API: read, written and documented from these types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from broker.entry import MAX_NAME_BYTES

REVOKED_S = 30 * 86_400
REVOKED_MAX_S = 366 * 86_400

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
"""Its bound is in bytes; the length of a text is never more."""
Position = Annotated[str, msgspec.Meta(examples=["1763700000000-0"])]


class _Question(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A body that was sent to us: a misspelt name is refused, not ignored."""


class Publish(_Question, frozen=True):
    """An event; its fields are those of an entry in the event stream."""

    event: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    data: Annotated[
        msgspec.Raw,
        msgspec.Meta(
            description="Any JSON value; reaches the clients byte for byte. "
            "Without it: null."
        ),
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    key: Annotated[
        Name, msgspec.Meta(description="What overflow=latest conflates by.")
    ] = ""
    node_id: Name = ""
    timestamp: Annotated[
        str,
        msgspec.Meta(description="RFC 3339. Without it: the time in the id."),
    ] = ""
    transient: Annotated[
        bool, msgspec.Meta(description="Delivered live, never replayed.")
    ] = False


class Published(msgspec.Struct, frozen=True):
    """The event is stored."""

    id: Position


class Present(msgspec.Struct, frozen=True):
    """Who is connected to a session."""

    count: int
    users: Annotated[
        list[str], msgspec.Meta(description="Some of them, if they are very many.")
    ]


class SessionInfo(msgspec.Struct, frozen=True):
    """A session's stream, and who is connected to it."""

    count: Annotated[int, msgspec.Meta(description="Entries there are.")]
    added: Annotated[int, msgspec.Meta(description="Entries there ever were.")]
    first: Position | None
    last: Annotated[
        Position | None,
        msgspec.Meta(description="The largest id ever, also if its entry is gone."),
    ]
    present: Present


class Count(msgspec.Struct, frozen=True):
    """How many events a session has."""

    count: int
    added: int
    first: Position | None
    last: Position | None


class History(msgspec.Struct, frozen=True):
    """A page of events, in the form of frames without ordinals."""

    events: list[dict[str, Any]]
    next: Annotated[
        Position | None,
        msgspec.Meta(description="Goes into after, or before if reverse, for more."),
    ]


class UserSession(msgspec.Struct, frozen=True):
    """A session of a user."""

    session: str
    state: Annotated[
        Literal["open", "idle", "evicted", "closed"],
        msgspec.Meta(description="Ended ones are listed for a day."),
    ]
    started_ms: Annotated[int, msgspec.Meta(description="Unix time.")]
    active_ms: Annotated[
        int, msgspec.Meta(description="Unix time of the last activity, or of the end.")
    ]
    lease_left_ms: Annotated[
        int, msgspec.Meta(description="How long it counts without word from its pod.")
    ]
    fence: Annotated[int, msgspec.Meta(description="Tells its openings apart.")]
    replaced_by: Annotated[
        str, msgspec.Meta(description="The session for which it was evicted.")
    ] = ""


class UserSessions(msgspec.Struct, frozen=True):
    """The sessions of a user in the whole fleet: open and idle ones first."""

    user: str
    sessions: list[UserSession]


class Closed(msgspec.Struct, frozen=True):
    """The session is closed."""

    closed: Annotated[
        bool, msgspec.Meta(description="Whether this has closed it: it was open.")
    ]


class Told(msgspec.Struct, frozen=True):
    """The workers of all pods were told."""

    workers: Annotated[int, msgspec.Meta(description="How many workers that were.")]


class Revoke(_Question, frozen=True):
    """Take access away from a user or from one token: exactly one of the two."""

    user: str = ""
    token_id: Annotated[str, msgspec.Meta(description="jti of a token.")] = ""
    ttl_s: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=REVOKED_MAX_S, description="Seconds until it is forgotten."
        ),
    ] = REVOKED_S


class Revocation(msgspec.Struct, frozen=True):
    """Access that was taken away."""

    kind: Literal["user", "token"]
    name: Annotated[str, msgspec.Meta(description="The user, or the id of the token.")]
    at: Annotated[
        float | None,
        msgspec.Meta(description="Unix time; tokens issued until then are void."),
    ]
    until: Annotated[
        float | None, msgspec.Meta(description="Unix time; null: for ever.")
    ]


class Revocations(msgspec.Struct, frozen=True):
    """All revocations that hold, the newest first."""

    revocations: list[Revocation]


class Lagging(msgspec.Struct, frozen=True):
    """A connection, and how far it is behind. Unknown fields are ignored."""

    connection: str
    user: str | None
    session: str
    protocol: str
    state: str
    behind_entries: int | None = None
    buffered_bytes: int = 0
    lagging_s: float = 0.0
    pod: str = ""
    worker: int = 0


class Connections(msgspec.Struct, frozen=True):
    """The connections that are furthest behind, the worst first."""

    connections: list[Lagging]
    answered: Annotated[int, msgspec.Meta(description="Workers that answered.")]
    workers: Annotated[int, msgspec.Meta(description="Workers that were asked.")]


class Problem(msgspec.Struct, frozen=True):
    """Why a request failed."""

    code: str
    message: Annotated[str, msgspec.Meta(description="For a person.")]


class Failure(msgspec.Struct, frozen=True):
    """The body of every answer of status 400 and above."""

    error: Problem
