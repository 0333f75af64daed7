"""The verbs of an operator, who asks a running broker by its server API.

They find it as ``--admin-url``, in the settings, or in the state of ``broker dev``, and
show it the token of ``BROKER_ADMIN_TOKEN``.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.admin import Admin, AdminProblem, run, where_to_ask
from broker.config import load_settings
from broker.control.api_keys import new_key
from broker.control.identity import BadClaims
from broker.supervisor.api import messages as m

Body = TypeVar("Body", bound=msgspec.Struct)

WATCH_EVERY_S = 2.0
PLAIN_WIDTH = 200
"""Columns where there is no terminal: whoever cuts the output wants all of it."""


def _asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its options, and in their place the API and how to print."""

    @click.option("--admin-url", help="Such as http://127.0.0.1:9090.")
    @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    @functools.wraps(command)
    def wrapped(admin_url: str | None, **rest: Any) -> None:
        settings = load_settings()
        url = admin_url or where_to_ask(settings)
        token = settings.admin_token.get_secret_value()
        try:
            admin = Admin(url, token)
        except ValueError as error:
            raise click.UsageError(
                f"--admin-url must look like http://127.0.0.1:9090: {error}"
            ) from None
        command(admin=admin, **rest)

    return wrapped


def _answer(
    text: bytes, kind: type[Body], as_json: bool, show: Callable[[Body], None]
) -> None:
    if as_json:
        click.echo(text)
        return
    try:
        show(msgspec.json.decode(text, type=kind))
    except msgspec.DecodeError as error:
        raise AdminProblem(f"the answer cannot be read: {error}") from None


@click.command()
@click.argument("user")
@_asks
def sessions(user: str, admin: Admin, as_json: bool) -> None:
    """List the sessions of USER: open, idle, and ended within the last day."""

    def show(found: m.UserSessions) -> None:
        table = _table("session", "state", "started", "active", "replaced by")
        for one in found.sessions:
            times = map(_time, (one.started_ms / 1000, one.active_ms / 1000))
            table.add_row(*map(Text, (one.session, one.state, *times, one.replaced_by)))
        _console().print(table if found.sessions else f"no sessions of {user}")

    _answer(run(admin.ask("user_sessions", user=user)), m.UserSessions, as_json, show)


@click.command()
@click.argument("user")
@click.argument("session")
@_asks
def evict(user: str, session: str, admin: Admin, as_json: bool) -> None:
    """Close SESSION of USER; its connections end and do not come back by themselves."""

    def show(found: m.Closed) -> None:
        click.echo(f"{session} is closed" if found.closed else f"{session} is not open")

    text = run(admin.ask("close_session", user=user, session=session))
    _answer(text, m.Closed, as_json, show)


@click.command()
@click.argument("user")
@_asks
def disconnect(user: str, admin: Admin, as_json: bool) -> None:
    """End all connections of USER; they may come back."""

    def show(found: m.Told) -> None:
        click.echo(f"{found.workers} workers were told")

    _answer(run(admin.ask("disconnect", user=user)), m.Told, as_json, show)


@click.command()
@click.option("--user", help="All tokens and keys of this user that there are now.")
@click.option("--token-id", help="One token by its jti, or one key by its name.")
@click.option("--ttl", type=float, help="Seconds for which it holds. Default: 30 days.")
@click.option("--undo", is_flag=True, help="Give access back.")
@_asks
def revoke(
    user: str | None,
    token_id: str | None,
    ttl: float | None,
    undo: bool,
    admin: Admin,
    as_json: bool,
) -> None:
    """Take access away; connections end within a second, on all pods."""
    if bool(user) == bool(token_id):
        raise click.UsageError("either --user or --token-id is needed")

    def show(found: m.Revocation) -> None:
        until = "for ever" if found.until is None else f"until {_time(found.until)}"
        click.echo(f"{found.kind} {found.name} is revoked {until}")

    if not undo:
        named = {"user": user, "token_id": token_id, "ttl_s": ttl}
        body = {name: value for name, value in named.items() if value is not None}
        _answer(run(admin.ask("revoke", body)), m.Revocation, as_json, show)
        return
    if user:
        run(admin.ask("pardon_user", user=user))
    else:
        run(admin.ask("pardon_token", id=token_id or ""))
    click.echo(f"{user or token_id} has access again", err=as_json)


@click.command()
@click.option("--limit", default=20, show_default=True, help="Connections at most.")
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@_asks
def top(limit: int, watch: bool, admin: Admin, as_json: bool) -> None:
    """Show the connections of the whole fleet that are furthest behind."""

    async def ask() -> bytes:
        return await admin.ask("connections", query=f"?limit={limit}")

    if watch:
        run(_watch_json(ask) if as_json else _watch(ask))
        return

    def show(found: m.Connections) -> None:
        _console().print(_top(found))

    _answer(run(ask()), m.Connections, as_json, show)


async def _watch_json(ask: Callable[[], Coroutine[Any, Any, bytes]]) -> None:
    while True:
        click.echo(await ask())
        await asyncio.sleep(WATCH_EVERY_S)


async def _watch(ask: Callable[[], Coroutine[Any, Any, bytes]]) -> None:
    with Live(console=_console(), auto_refresh=False) as live:
        while True:
            try:
                shown = _top(msgspec.json.decode(await ask(), type=m.Connections))
            except (AdminProblem, msgspec.DecodeError) as error:
                # A fleet in trouble is what somebody watches it for.
                shown = Text(str(error))
            live.update(shown, refresh=True)
            await asyncio.sleep(WATCH_EVERY_S)


def _top(found: m.Connections) -> RenderableType:
    table = _table(
        *("behind", "buffered", "lagging s", "state", "protocol", "user", "session"),
        *("connection", "pod", "worker"),
    )
    for one in found.connections:
        behind = "?" if one.behind_entries is None else str(one.behind_entries)
        numbers = (behind, str(one.buffered_bytes), f"{one.lagging_s:.1f}")
        words = (one.state, one.protocol, one.user or "", one.session, one.connection)
        where = (one.pod, str(one.worker))
        table.add_row(*map(Text, (*numbers, *words, *where)))
    table.caption = f"{found.answered} of {found.workers} workers answered"
    return table


@click.command()
@click.option("--user", required=True, help="Whose key it is.")
@click.option("--rights", required=True, help="subscribe, command, publish, admin.")
@click.option("--sessions", default="", help="Names, or beginnings with * behind.")
@click.option("--command-sessions", help="The same for commands. Default: --sessions.")
@click.option("--max-sessions", type=int, help="Open sessions of the user; 0: any.")
@click.option("--max-connections", type=int, help="Connections of the user; 0: any.")
@click.option("--name", help="By which this key alone can be revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print both as one JSON object.")
def key(
    user: str,
    rights: str,
    sessions: str,
    command_sessions: str | None,
    max_sessions: int | None,
    max_connections: int | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Make an API key: print the key, and the record that BROKER_API_KEYS takes.

    Lists are separated by commas. Nobody can find out the key later.
    """
    try:
        made, record = new_key(
            user,
            _split(rights),
            _split(sessions),
            command_sessions=_split(command_sessions) if command_sessions else None,
            max_sessions=max_sessions,
            max_connections=max_connections,
            name=name,
        )
    except BadClaims as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode({"key": made, "record": record}))
        return
    click.echo("The key for its owner, then the record for BROKER_API_KEYS:", err=True)
    click.echo(made)
    click.echo(msgspec.json.encode(record))


VERBS = (sessions, evict, disconnect, revoke, top, key)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(" ", "seconds").replace("+00:00", "Z")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
