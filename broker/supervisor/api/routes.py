"""Every route of the admin port, once: server, document and command line read this."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

from broker.supervisor.api import messages as m

Need = Literal["nothing", "publish", "admin"]
JSON, METRICS = "application/json", "text/plain"


class Parameter(msgspec.Struct, frozen=True):
    """Something optional in the query or in a header.

    Attributes:
        name: Its name.
        kind: Its type in JSON Schema.
        summary: For a person.
        place: ``query`` or ``header``.
    """

    name: str
    kind: Literal["string", "integer", "boolean"]
    summary: str
    place: Literal["query", "header"] = "query"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    Attributes:
        name: Names the handler and the operation of the document.
        method: The HTTP method.
        path: With ``{...}`` for what varies.
        summary: One line for a person.
        need: The right it takes.
        takes: Type of the request's body, if it has one.
        parameters: What may be added.
        status: Of the answer when all went well.
        answer: Type of its body; None for none, ``dict`` for JSON without a type.
        media: The type of the answer's body in HTTP's words.
        also: Other statuses that only this route has, each with what it says.
    """

    name: str
    method: str
    path: str
    summary: str
    need: Need = "admin"
    takes: type[msgspec.Struct] | None = None
    parameters: tuple[Parameter, ...] = ()
    status: int = 200
    answer: type[msgspec.Struct] | type[dict[str, object]] | None = dict
    media: str = JSON
    also: tuple[tuple[int, str], ...] = ()


PAGE = (
    Parameter("after", "string", "A position; what comes after it."),
    Parameter("before", "string", "A position; what comes before it."),
    Parameter("limit", "integer", "Events at most."),
    Parameter("reverse", "boolean", "Begin with the newest."),
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "string",
    "Of requests with the same key only one is stored; the others get its id.",
    "header",
)

ROUTES = (
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        summary="The processes of this pod; answers while the supervisor lives.",
        need="nothing",
    ),
    Route(
        name="startupz",
        method="GET",
        path="/startupz",
        summary="Whether the pod has been ready since it began.",
        need="nothing",
        also=((503, "Not yet; the body has what is missing."),),
    ),
    Route(
        name="livez",
        method="GET",
        path="/livez",
        summary="Whether the pod can still mend itself.",
        need="nothing",
        also=((503, "Only a new pod can; the body has the reasons."),),
    ),
    Route(
        name="readyz",
        method="GET",
        path="/readyz",
        summary="Whether new clients may come here.",
        need="nothing",
        also=((503, "They may not; the body has the reasons."),),
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        summary="All metrics of this pod, for Prometheus.",
        need="nothing",
        answer=None,
        media=METRICS,
    ),
    Route(
        name="openapi",
        method="GET",
        path="/openapi.json",
        summary="This document.",
        need="nothing",
    ),
    Route(
        name="publish",
        method="POST",
        path="/v1/sessions/{session}/events",
        summary="Add an event to the stream of a session.",
        need="publish",
        takes=m.Publish,
        parameters=(IDEMPOTENCY_KEY,),
        status=201,
        answer=m.Published,
        also=((422, "The Idempotency-Key was used for another event."),),
    ),
    Route(
        name="history",
        method="GET",
        path="/v1/sessions/{session}/events",
        summary="A page of a session's events.",
        parameters=PAGE,
        answer=m.History,
    ),
    Route(
        name="count",
        method="GET",
        path="/v1/sessions/{session}/events/count",
        summary="How many events a session has.",
        answer=m.Count,
    ),
    Route(
        name="session",
        method="GET",
        path="/v1/sessions/{session}",
        summary="How many events a session has, and who is connected to it.",
        answer=m.SessionInfo,
    ),
    Route(
        name="user_sessions",
        method="GET",
        path="/v1/users/{user}/sessions",
        summary="The sessions that a user has open in the whole fleet.",
        answer=m.UserSessions,
    ),
    Route(
        name="close_session",
        method="POST",
        path="/v1/users/{user}/sessions/{session}/close",
        summary="Close a session; its connections end and do not come back.",
        answer=m.Closed,
    ),
    Route(
        name="disconnect",
        method="POST",
        path="/v1/users/{user}/disconnect",
        summary="End all connections of a user; they may come back.",
        answer=m.Told,
    ),
    Route(
        name="revoke",
        method="POST",
        path="/v1/revocations",
        summary="Take access away; connections end within a second on all pods.",
        takes=m.Revoke,
        status=201,
        answer=m.Revocation,
    ),
    Route(
        name="revocations",
        method="GET",
        path="/v1/revocations",
        summary="What was revoked and still is.",
        answer=m.Revocations,
    ),
    Route(
        name="pardon_user",
        method="DELETE",
        path="/v1/revocations/user/{user}",
        summary="Take the revocation of a user back.",
        status=204,
        answer=None,
    ),
    Route(
        name="pardon_token",
        method="DELETE",
        path="/v1/revocations/token/{id}",
        summary="Take the revocation of a token back.",
        status=204,
        answer=None,
    ),
    Route(
        name="connections",
        method="GET",
        path="/v1/connections",
        summary="The connections of the whole fleet that are furthest behind.",
        parameters=(Parameter("limit", "integer", "Connections at most."),),
        answer=m.Connections,
    ),
)

_BY_NAME = {route.name: route for route in ROUTES}


def request_line(name: str, **parts: str) -> tuple[str, str]:
    """Method and path of the route *name*, with its ``{...}`` filled in."""
    route = _BY_NAME[name]
    escaped = {part: quote(value, safe="") for part, value in parts.items()}
    return route.method, route.path.format(**escaped)
