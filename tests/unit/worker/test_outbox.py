"""What answers may wait for clients that do not read them."""

from __future__ import annotations

import pytest
from aiohttp import web

from broker.worker.edges.edge import Outbox
from broker.worker.handshake import Refusal


def test_answers_that_wait_are_bounded_and_given_back() -> None:
    """An answer counts until nobody holds it; what is too much is told to come back."""
    outbox = Outbox(bytes_max=100)
    first = outbox.take(web.Response(body=bytes(60)))
    with pytest.raises(Refusal) as refused:
        outbox.take(web.Response(body=bytes(60)))
    waiting = outbox.waiting_bytes
    del first
    outbox.take(web.Response(body=bytes(60)))

    assert refused.value.status == 503
    assert (waiting, outbox.waiting_bytes) == (60, 0)
