"""The OpenAPI document, made from the table of routes and the types of its bodies."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from broker import __version__
from broker.control.identity import USER_BYTES_MAX
from broker.supervisor.api.messages import Failure
from broker.supervisor.api.routes import JSON, ROUTES, Parameter, Route

OPENAPI = "3.1.0"
BEARER = "bearer"
ABOUT = (
    "Publish, look at sessions and connections, and take access away. Served on the "
    "admin port."
)

FAILURES = {
    400: "The path, the query or the body cannot be used.",
    401: "The token is missing or not valid.",
    403: "This is not allowed: no right, a page's request, or no token is set.",
    404: "There is nothing here.",
    408: "The body did not come in time.",
    413: "The body or the event is too large.",
    417: "Something other than 100-continue is expected.",
    502: "Redis answered with an error that a retry would repeat.",
    503: "Redis or who checks tokens is away, or too many requests at once; try again.",
}

PARTS: dict[str, dict[str, Any]] = {
    "session": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"},
    "user": {"minLength": 1, "maxLength": USER_BYTES_MAX},
    "id": {"minLength": 1, "maxLength": USER_BYTES_MAX},
}
"""What stands for ``{...}`` in a path."""

_PART = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The whole document, ready to be encoded."""
    types = {_type for route in ROUTES for _type in _types(route)} | {Failure}
    ordered = sorted(types, key=lambda one: one.__name__)
    references, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    by_type: dict[object, dict[str, Any]] = dict(zip(ordered, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        path = paths.setdefault(route.path, {})
        path[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": OPENAPI,
        "info": {"title": "Broker", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                str(status): {
                    "description": why,
                    "content": {JSON: {"schema": by_type[Failure]}},
                }
                for status, why in FAILURES.items()
            },
            "securitySchemes": {BEARER: {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(route: Route) -> list[type[msgspec.Struct]]:
    named = (route.takes, route.answer)
    return [t for t in named if t is not None and issubclass(t, msgspec.Struct)]


def _operation(route: Route, by_type: dict[object, dict[str, Any]]) -> dict[str, Any]:
    answers: dict[str, Any] = {str(route.status): _answer(route, by_type)}
    answers |= {str(status): {"description": why} for status, why in route.also}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [_path_part(name) for name in _PART.findall(route.path)]
        + [_parameter(one) for one in route.parameters],
        "responses": answers,
    }
    if route.need != "nothing":
        # Where no token is set none is needed, so an empty choice stands beside it.
        operation["security"] = [{BEARER: []}, {}]
        operation["x-right"] = route.need
        for status in sorted(_failures(route)):
            answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    if route.takes is not None:
        content = {JSON: {"schema": by_type[route.takes]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _failures(route: Route) -> set[int]:
    with_body = {408, 413}
    return set(FAILURES) - (with_body if route.takes is None else set())


def _answer(route: Route, by_type: dict[object, dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        schema = by_type.get(route.answer, {"type": "object"})
        answer["content"] = {route.media: {"schema": schema}}
    elif route.status != 204:
        answer["content"] = {route.media: {"schema": {"type": "string"}}}
    return answer


def _path_part(name: str) -> dict[str, Any]:
    schema = {"type": "string", **PARTS[name]}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.summary,
        "schema": {"type": parameter.kind},
    }
