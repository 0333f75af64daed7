"""Which connections belong to whom, to find them when access or a session ends."""

from __future__ import annotations

from collections.abc import Iterator

from broker.worker.connection import Connection


class People:
    """The connections of users that have a name, oldest first, and those of sessions.

    Anonymous connections are in neither: nobody can take anything from them.
    """

    def __init__(self) -> None:
        self._by_user: dict[str, dict[Connection, None]] = {}
        self._by_path: dict[str, dict[Connection, None]] = {}
        self._by_token: dict[str, dict[Connection, None]] = {}

    def __iter__(self) -> Iterator[Connection]:
        """Everybody."""
        return iter([c for those in self._by_user.values() for c in those])

    def add(self, connection: Connection) -> None:
        """Know *connection* from now on."""
        if connection.user:
            self._by_user.setdefault(connection.user, {})[connection] = None
            identity = connection.identity
            if identity is not None and identity.token_id is not None:
                self._by_token.setdefault(identity.token_id, {})[connection] = None
            if connection.session:
                self._by_path.setdefault(connection.session, {})[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget it."""
        identity = connection.identity
        if identity is not None and identity.token_id is not None:
            _remove(self._by_token, identity.token_id, connection)
        _remove(self._by_user, connection.user, connection)
        _remove(self._by_path, connection.session, connection)

    def of(self, user: str) -> list[Connection]:
        """The connections of *user*, the oldest first."""
        return list(self._by_user.get(user, ()))

    def with_token(self, token_id: str) -> list[Connection]:
        """The connections whose token of the moment it is."""
        return list(self._by_token.get(token_id, ()))

    def oldest(self, user: str, session: str = "") -> Connection | None:
        """The oldest open connection to *session*, or of *user* if none is named."""
        those = self._by_path.get(session) if session else self._by_user.get(user)
        return next((c for c in those or () if c.open), None)


def _remove(
    table: dict[str, dict[Connection, None]], name: str, connection: Connection
) -> None:
    those = table.get(name)
    if those is not None:
        those.pop(connection, None)
        if not those:
            del table[name]
