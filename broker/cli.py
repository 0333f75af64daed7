"""The command line: ``serve``, ``dev``, ``publish``, ``tail``, ``config``.

What operators say to a running broker is in ``operate``, what is wrong around it says
``doctor``.

Exit status: 0 done, 1 failed, 2 wrong usage or settings. An error is one sentence on
standard error.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import orjson

from broker import __version__
from broker.admin import run
from broker.client.tail import Ending, Frame, NotTaken, Tail
from broker.config import CLIENT_TOKEN, PREFIX, Settings, load_settings
from broker.dev import dev_settings, read_state, redis_for, run_dev
from broker.doctor import beside, doctor
from broker.errors import BrokerError, ConfigError
from broker.logs import configure_logs
from broker.model import is_session_name, parse_position
from broker.operate import VERBS
from broker.store import client as store
from broker.store.keys import event_key_pattern
from broker.supervisor.supervisor import Supervisor

_CONTROL_EVENTS = frozenset(
    ("welcome", "subscribed", "caught_up", "heartbeat", "closing")
)


class _Commands(click.Group):
    """Turns our errors into one sentence and an exit status."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse bytes that are no text: neither Redis nor a URL takes them."""
        for number, arg in enumerate(args, 1):
            # Python keeps them as lone surrogates. Not repeated: it may be a token.
            if any("\ud800" <= character <= "\udfff" for character in arg):
                raise click.UsageError(f"argument {number} is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _complain(error)
            ctx.exit(2)
        except BrokerError as error:
            _complain(error)
            ctx.exit(1)


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """Carry events from Redis Streams to WebSocket clients.

    Settings are environment variables BROKER_*, or lines of .env; see broker config.
    """


@main.command()
def serve() -> None:
    """Run the broker."""
    settings = load_settings()
    configure_logs(settings, process="supervisor")

    async def supervise() -> int:
        return await beside(settings, Supervisor(settings).run())

    sys.exit(run(supervise()))


@main.command()
@click.option("--no-demo", is_flag=True, help="Without the feed on session demo.")
def dev(no_demo: bool) -> None:
    """Run the broker with a Redis of its own and a demo feed.

    With BROKER_REDIS_URL set, that Redis is used. Two workers unless BROKER_WORKERS
    says otherwise.
    """
    settings = dev_settings(load_settings())
    configure_logs(settings, process="supervisor")
    with redis_for(settings) as settings:
        status = run(run_dev(settings, with_demo=not no_demo))
    sys.exit(status)


@main.command()
@click.argument("session")
@click.argument("event")
@click.argument("data", required=False)
def publish(session: str, event: str, data: str | None) -> None:
    """Add EVENT with DATA (JSON text) to the stream of SESSION; print its id.

    Goes to BROKER_REDIS_URL, else to the running `broker dev`, else to the default.
    """
    _check_session(session)
    if data is not None:
        _check_json(data)
    settings = load_settings()
    url, pattern = _where_to_publish(settings)
    key = event_key_pattern(pattern).key(session)

    async def add() -> str:
        async with store.connect(url, client_name="broker-publish") as client:
            return await store.publish(client, key, event, data)

    click.echo(run(add()))


@main.command()
@click.argument("session")
@click.option(
    "--from",
    "start",
    metavar="POSITION",
    help="A position, 0 for all that is retained, -N for the last N. Default: live.",
)
@click.option("--url", help="Where the broker listens, such as http://127.0.0.1:8080.")
@click.option(
    "--token",
    envvar=CLIENT_TOKEN,
    default="",
    help=f"Who you are, where that is asked for. Better in {CLIENT_TOKEN}.",
)
@click.option("--user", default="", help="Who you are, where no token is asked for.")
@click.option("--all", "everything", is_flag=True, help="Print control frames as well.")
def tail(
    session: str,
    start: str | None,
    url: str | None,
    token: str,
    user: str,
    everything: bool,
) -> None:
    """Print the events of SESSION as they come, one JSON object per line.

    Reconnects and resumes by itself, so nothing is missed or repeated; what was lost
    is printed as a gap. Ends when the broker says that coming back is of no use.
    """
    _check_session(session)
    if start is not None:
        _check_start(start)

    def show(frame: Frame, text: str) -> None:
        if everything or frame.id or frame.event not in _CONTROL_EVENTS:
            # Line breaks between the values of a JSON text mean nothing.
            click.echo(text.replace("\r", " ").replace("\n", " "))

    def report(ending: Ending, delay_s: float) -> None:
        click.echo(f"{ending.reason}; again in {delay_s:.1f} s", err=True)

    try:
        follower = Tail(
            url or _where_to_connect(),
            session,
            start=start,
            token=token,
            user=user,
            on_frame=show,
            on_pause=report,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        ending = run(follower.run())
    except NotTaken:
        # Who reads our output has left, as `head` does. Nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    click.echo(ending.reason, err=True)
    sys.exit(1)


@main.command()
def config() -> None:
    """Print every setting in effect and what it means, in the form of .env."""
    settings = load_settings()
    for name, value in settings.shown().items():
        field = Settings.model_fields[name]
        origin = "" if name in settings.model_fields_set else " [default]"
        click.echo(f"# {field.description}{origin}\n{PREFIX}{name.upper()}={value}\n")


for _verb in (*VERBS, doctor):
    main.add_command(_verb)


def _where_to_publish(settings: Settings) -> tuple[str, str]:
    """The Redis URL and the event stream: as set, else those of ``broker dev``."""
    url, pattern = settings.redis_url.get_secret_value(), settings.event_stream
    state = read_state()
    if state is None or "redis_url" in settings.model_fields_set:
        return url, pattern
    is_set = "event_stream" in settings.model_fields_set
    return state.redis_url, pattern if is_set else state.event_stream


def _where_to_connect() -> str:
    """The broker that settings speak of, else the running ``broker dev``."""
    settings = load_settings()
    state = read_state()
    if state is not None and not {"host", "port"} & settings.model_fields_set:
        return state.url
    host = settings.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104  every address, so this machine's too
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _check_session(session: str) -> None:
    if not is_session_name(session):
        raise click.UsageError(
            f"{session!r} cannot be the name of a session: 1 to 128 letters, digits "
            "and . _ : @ -, beginning with a letter or digit"
        )


def _check_json(data: str) -> None:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"DATA is not JSON: {error}") from None


def _check_start(start: str) -> None:
    is_count = start.startswith("-") and start[1:].isdecimal()
    if start == "0" or is_count:
        return
    try:
        parse_position(start)
    except ValueError as error:
        raise click.UsageError(f"--from {start}: {error}, 0, or -N") from None


def _complain(error: Exception) -> None:
    text = str(error) or type(error).__name__
    click.echo(text, err=True)
