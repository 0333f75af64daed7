"""Reads the settings: the only place that looks at the environment or ``.env``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from broker.config.settings import Settings
from broker.errors import ConfigError

PREFIX = "BROKER_"
CLIENT_TOKEN = "BROKER_TOKEN"  # noqa: S105  its name
"""Of a client on this machine, such as ``broker tail``: no setting of a broker."""


def load_settings(
    env: Mapping[str, str] | None = None, env_file: str | Path | None = ".env"
) -> Settings:
    """Read the settings from *env_file* and *env*; the latter wins.

    An empty value counts as not set. ``BROKER_TEST_*`` is left to the tests, and
    ``CLIENT_TOKEN`` to clients.

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
        if name.startswith(PREFIX) and not _is_of_others(name) and value
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
            if one["type"] != "default_factory_not_called"  # For want of another one.
        ]
    else:
        if not complaints:
            return settings
    raise ConfigError("\n".join(sorted(complaints)))


def _is_of_others(name: str) -> bool:
    return name == CLIENT_TOKEN or name.startswith("BROKER_TEST_")


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
