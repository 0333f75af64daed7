"""The settings as a page for people: ``python -m broker.config.reference``.

``deploy/SETTINGS.md`` is what this prints, and a test holds them together.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from broker.config.access import AccessSettings
from broker.config.edges import EdgeSettings
from broker.config.environment import PREFIX
from broker.config.sessions import SessionSettings
from broker.config.settings import Settings
from broker.config.types import GIB, KIB, MIB

GROUPS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Addresses, Redis, limits and times", Settings),
    ("Who may connect", AccessSettings),
    ("Sessions, positions, commands and presence", SessionSettings),
    ("Foreign protocols and the console", EdgeSettings),
)
"""Every class that has fields of the settings, under the heading it gets."""

INTRODUCTION = f"""\
# Settings

Every setting is an environment variable `{PREFIX}<NAME>`, or a line of the file `.env`
in the directory where the broker is started; the environment wins. An empty value is
as good as none. An unknown name, or a value out of its bounds, stops the start with a
sentence that says what is allowed. `broker config` prints the values in effect. Words
are read in any case; sizes are bytes, or a number with `KiB`, `MiB` or `GiB`; times are
seconds and may have a fraction.

This page is generated: `python -m broker.config.reference > deploy/SETTINGS.md`."""

_MADE = {
    "host": "`127.0.0.1` with `auth=none` and without `allow_insecure`, else `0.0.0.0`",
    "workers": "usable cores - 1, at least 1",
}
"""Defaults that depend on the machine or on other settings."""

_HEADER = "| Setting | Value | Default | Meaning |"

Schema = Mapping[str, Any]


def render() -> str:
    """The whole page, in Markdown; it is the same on every machine."""
    properties = Settings.model_json_schema()["properties"]
    parts = [INTRODUCTION]
    for heading, model in GROUPS:
        parts += ["", f"## {heading}", "", _HEADER, "|---|---|---|---|"]
        parts += [_row(name, properties[name]) for name in _own_fields(model)]
    return "\n".join(parts) + "\n"


def _own_fields(model: type[BaseModel]) -> list[str]:
    inherited = {name for base in model.__bases__ for name in _fields_of(base)}
    return [name for name in model.model_fields if name not in inherited]


def _fields_of(base: type) -> list[str]:
    return list(base.model_fields) if issubclass(base, BaseModel) else []


def _row(name: str, schema: Schema) -> str:
    cells = (
        f"`{PREFIX}{name.upper()}`",
        _value(name, schema),
        _default(name, schema),
        str(schema["description"]).replace("|", r"\|"),
    )
    return f"| {' | '.join(cells)} |"


def _value(name: str, schema: Schema) -> str:
    """What may stand there: kind and bounds."""
    if words := schema.get("enum"):
        return ", ".join(f"`{word}`" for word in words)
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if schema["type"] == "string":
        return "secret" if schema.get("format") == "password" else "text"
    kind = "number" if schema["type"] == "number" else "whole number"
    kind = "size" if name.endswith("_bytes") else kind
    kind = "seconds" if name.endswith("_s") and "_per_" not in name else kind
    return f"{kind}{_bounds(name, schema)}"


def _bounds(name: str, schema: Schema) -> str:
    signs = {
        "exclusiveMinimum": "above ",
        "minimum": "from ",
        "maximum": "up to ",
        "exclusiveMaximum": "below ",
    }
    found = [
        sign + _shown(name, schema[bound])
        for bound, sign in signs.items()
        # Two lower bounds: the closed one is the narrower in every field we have.
        if bound in schema and not (bound == "exclusiveMinimum" and "minimum" in schema)
    ]
    return "".join(f" {bound}" for bound in found)


def _default(name: str, schema: Schema) -> str:
    if name in _MADE:
        return _MADE[name]
    if name == "redis_url":
        return f"`{Settings.model_fields[name].default.get_secret_value()}`"
    value = schema["default"]
    return f"`{_shown(name, value)}`" if value != "" else ""


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("_bytes") and isinstance(value, int):
        return _size(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _size(count: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


if __name__ == "__main__":
    sys.stdout.write(render())
