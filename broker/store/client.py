"""redis-py for what is rare: publishing by hand, the demo, the probe.

Its defaults retry ten times, and a retried ``XADD`` can store an entry twice, so what
matters is set explicitly here and nothing is retried.
"""

from __future__ import annotations

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store.address import parse_url

DEFAULT_MAX_LEN = 10_000
"""About how many entries a stream keeps when nothing else is asked for."""
TIMEOUT_S = 5.0


def connect(url: str, *, client_name: str = "broker") -> Redis:
    """A client for *url* that retries nothing; connects when it is first used.

    Close it with ``await client.aclose()``.

    Raises:
        ConfigError: The URL cannot be used.
    """
    parse_url(url)
    return Redis.from_url(
        url,
        protocol=3,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        client_name=client_name,
    )


async def publish(
    client: Redis,
    key: str | bytes,
    event: str,
    data: str | None = None,
    *,
    max_len: int = DEFAULT_MAX_LEN,
    exact: bool = False,
    expire_s: int | None = None,
) -> str:
    """Add one event to the stream at *key*, as any publisher may; returns its id.

    Args:
        client: From `connect`.
        key: The stream.
        event: Name of the event.
        data: JSON text; absent means null.
        max_len: How many entries are kept, about unless *exact*.
        exact: Whether to keep not one more.
        expire_s: The whole stream goes away if nothing is added for so long.

    Raises:
        StoreUnavailable: No connection, no answer in time, or not ready. The event
            may or may not have been stored.
        StoreRefused: The answer is another error.
    """
    fields: dict[str, str] = {"event": event}
    if data is not None:
        fields["data"] = data
    # In one write: an expiry of its own would ring every reader a second time.
    # A pipeline's methods only queue; their types are those of the client's.
    pipeline = client.pipeline(transaction=False)
    pipeline.xadd(  # type: ignore[unused-awaitable]
        key,
        fields,  # type: ignore[arg-type]
        maxlen=max_len,
        approximate=not exact,
    )
    if expire_s is not None:
        pipeline.expire(key, expire_s)  # type: ignore[unused-awaitable]
    try:
        answers = await pipeline.execute()
    except exceptions.RedisError as error:
        raise _translate(error) from error
    entry_id: bytes = answers[0]
    return entry_id.decode()


async def ping(client: Redis) -> None:
    """Return if the server answers.

    Raises:
        StoreUnavailable: No connection, no answer in time, or not ready.
        StoreRefused: The answer is another error.
    """
    try:
        await client.ping()
    except exceptions.RedisError as error:
        raise _translate(error) from error


_PASSING = (
    exceptions.BusyLoadingError,
    exceptions.ConnectionError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
    exceptions.TimeoutError,
    exceptions.TryAgainError,
)


def _translate(error: exceptions.RedisError) -> StoreError:
    text = str(error) or type(error).__name__
    if isinstance(error, _PASSING) or text.startswith("BUSY "):
        return StoreUnavailable(text)
    return StoreRefused(text)
