"""Logs: structlog, set up once per process, with secrets taken out of every line.

``configure_logs`` sends structlog and the standard library's ``logging`` down one
path: level, context of the process, redaction, then JSON lines (text on a terminal).
Log an event name and keys, never a sentence: ``log.info("ready", workers=4)``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, TextIO

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "***"

_SECRET_KEY = re.compile(r"token|passw|secret|authorization|cookie\Z", re.IGNORECASE)
_QUOTED = r"[^\s\"'&,;)\]}]"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A bearer token, as a header value and as the subprotocol `bearer.<token>`.
    (
        re.compile(rf"\b(bearer)(\.|%2e|%20|\s+){_QUOTED}+", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*){0,4}"), HIDDEN),  # a JSON Web Token
    (
        re.compile(r"(authorization[\"']?\s*[:=]\s*)[^\r\n]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            rf"((?:token|passwo?r?d|secret)[\"']?(?:\s*[=:]\s*|%3d)[\"']?){_QUOTED}+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # Up to the last @: a password may hold any character when it was not escaped.
    (re.compile(r"\b((?:rediss?|valkeys?|unix)://)\S*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(AUTH)(?:\s+[^\s]+){1,2}"), rf"\1 {HIDDEN}"),
)
# aiohttp's parser quotes what it could not read: header values without their names.
_BYTES_LITERAL = re.compile(r"\bb(?P<q>[\"'])(?:\\.|(?!(?P=q)).)*(?P=q)?", re.DOTALL)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Take bearer tokens, ``token=`` values and Redis passwords out of *text*.

    Args:
        text: What would be written.
        secrets: Texts known to be secret, removed wherever they occur.
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class Redactor:
    """A structlog processor that redacts every value of an event, nested ones too.

    What is not a number or a container is turned into text first, so no object can
    bring a secret in through its ``repr``.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # A secret of one or two letters would only make the rest unreadable.
        self._secrets = tuple(secret for secret in secrets if len(secret) > 2)

    def __call__(
        self, logger: WrappedLogger, method: str, event: EventDict
    ) -> EventDict:
        """Return *event* without secrets."""
        of_aiohttp = str(event.get("logger", "")).startswith("aiohttp")
        return {
            key: HIDDEN if _SECRET_KEY.search(key) else self._clean(value, of_aiohttp)
            for key, value in event.items()
        }

    def _clean(self, value: Any, of_aiohttp: bool) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {
                str(key): HIDDEN
                if _SECRET_KEY.search(str(key))
                else self._clean(item, of_aiohttp)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item, of_aiohttp) for item in value]
        text = str(value)
        if of_aiohttp:
            text = _BYTES_LITERAL.sub(f"b'{HIDDEN}'", text)
        return redact(text, self._secrets)


class _BrokerHandler(logging.StreamHandler[TextIO]):
    """The handler that ``configure_logs`` adds, and replaces when called again."""


class LogSettings(Protocol):
    """What this module needs of ``broker.config.Settings``, which lies above it."""

    @property
    def log_level(self) -> str:
        """``debug``, ``info``, ``warning`` or ``error``."""

    @property
    def log_format(self) -> str:
        """``json``, ``text``, or ``auto`` for text only on a terminal."""

    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be written."""


def configure_logs(
    settings: LogSettings, *, stream: TextIO | None = None, **context: object
) -> None:
    """Set up the logs of this process; every module then uses structlog as it is.

    Uncaught exceptions and warnings go the same way, so that they are redacted too.

    Args:
        settings: The effective settings.
        stream: Where lines go; standard output if None.
        context: Put on every line, such as ``process="worker", index=1``.
    """
    stream = stream or sys.stdout
    number = logging.getLevelNamesMapping()[settings.log_level.upper()]
    log_format = settings.log_format
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    shared = _shared_processors(context)
    handler = _BrokerHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                # A plain traceback: the richer ones print local variables.
                structlog.processors.format_exc_info,
                Redactor(settings.secrets()),
                _text_renderer(stream) if as_text else _json_renderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _BrokerHandler)]
    root.addHandler(handler)
    root.setLevel(number)
    logging.captureWarnings(True)
    # On a broken pipe `logging` would print the raw record to standard error.
    logging.raiseExceptions = False
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught


def _shared_processors(context: dict[str, object]) -> list[Processor]:
    def add_context(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**context, **event}

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_context,
    ]


def _json_renderer() -> Processor:
    return structlog.processors.JSONRenderer(
        serializer=lambda event, **_: orjson.dumps(event).decode()
    )


def _text_renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger("broker").critical(
        "uncaught_exception", exc_info=(kind, error, trace)
    )
