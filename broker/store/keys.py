"""The names of all keys that the broker reads or writes.

The only configurable one is the event stream, ``BROKER_EVENT_STREAM``. It contains
``{session}``, and clients choose the session: a pattern that could name one of the
broker's own keys would hand that key to every client, so it is refused.
"""

from __future__ import annotations

from broker.errors import ConfigError

PLACEHOLDER = "{session}"
DEFAULT_EVENT_STREAM = "broker:events:{session}"
DEFAULT_COMMAND_STREAM = "broker:commands"

SELF_TEST_PREFIX = b"broker:_selftest:"
"""Keys that live for a moment while a connection proves that its doorbell rings."""

OWN_NAMES = (
    "broker:commands",
    "broker:lifecycle",
    "broker:dead",
    "broker:expiring",
    "broker:revoked",
)
"""Keys with one fixed name."""

OWN_PREFIXES = (
    "broker:offsets:",
    "broker:session:",
    "broker:sessions:",
    "broker:dedup:",
    "broker:presence:",
    "broker:answers:",
    "broker:{",  # hash-tagged: broker:{<user>}:sessions, broker:{commands}:...
    SELF_TEST_PREFIX.decode(),
)
"""Beginnings of the families of keys."""


class EventKeys:
    """Turns session names into keys of event streams and back."""

    __slots__ = ("_prefix", "_suffix")

    def __init__(self, prefix: str, suffix: str) -> None:
        self._prefix = prefix.encode()
        self._suffix = suffix.encode()

    def key(self, session: str) -> bytes:
        """The key of the event stream of *session*."""
        return b"%b%b%b" % (self._prefix, session.encode(), self._suffix)

    def session(self, key: bytes) -> str:
        """The session whose event stream is *key*.

        Raises:
            ValueError: *key* is no event stream.
        """
        end = len(key) - len(self._suffix)
        fits = key.startswith(self._prefix) and key.endswith(self._suffix)
        if not fits or end <= len(self._prefix):
            raise ValueError("not the key of an event stream")
        return key[len(self._prefix) : end].decode()


def event_key_pattern(pattern: str) -> EventKeys:
    """Read a pattern such as ``broker:events:{session}``.

    Raises:
        ConfigError: As `check_event_stream`.
    """
    check_event_stream(pattern)
    prefix, _, suffix = pattern.partition(PLACEHOLDER)
    return EventKeys(prefix, suffix)


def check_event_stream(pattern: str) -> None:
    """Refuse a pattern that could name a key which is no event stream.

    Raises:
        ConfigError: The pattern has no or several ``{session}``, another brace, a
            character that is not printable ASCII, no text in front, or text in front
            that is the beginning of (or begins with) another key of the broker.
    """
    prefix, _, suffix = pattern.partition(PLACEHOLDER)
    if pattern.count(PLACEHOLDER) != 1:
        raise _unusable(pattern, f"it must contain {PLACEHOLDER} exactly once")
    if not all("!" <= char <= "~" and char not in "{}" for char in prefix + suffix):
        raise _unusable(
            pattern,
            "around {session} only printable ASCII without blanks or braces is allowed",
        )
    if not prefix:
        raise _unusable(pattern, "there must be text in front of {session}")
    # A fixed name that some session completes the pattern to begins with the prefix.
    for own in OWN_NAMES + OWN_PREFIXES:
        if own.startswith(prefix):
            raise _unusable(pattern, f"{prefix!r} is the beginning of {own!r}")
    for own in OWN_PREFIXES:
        if prefix.startswith(own):
            raise _unusable(pattern, f"keys that begin with {own!r} are the broker's")


def check_command_stream(key: str) -> None:
    """Refuse a command stream that is another key of the broker.

    Raises:
        ConfigError: It is one, or its braces are no hash tag.
    """
    others = [name for name in OWN_NAMES if name != DEFAULT_COMMAND_STREAM]
    if key in others or key.startswith(OWN_PREFIXES):
        raise ConfigError(f"must not be a key of the broker's own, as {key!r} is")
    tag, end, _ = key.partition("{")[2].partition("}")
    if "}" in key and not (tag and end):
        raise ConfigError("must have braces only around a hash tag")


def _unusable(pattern: str, why: str) -> ConfigError:
    return ConfigError(
        f"BROKER_EVENT_STREAM={pattern!r} cannot be used: {why};"
        f" the default is {DEFAULT_EVENT_STREAM!r}"
    )
