"""Every way in which a token can be wrong has a place in the metrics."""

from __future__ import annotations

from broker.control.identity import REASONS
from broker.metrics import catalog


def test_every_reason_of_a_refused_token_is_counted() -> None:
    """Whoever looks at a rise of refusals sees what it is."""
    assert set(REASONS) <= set(catalog.TOKENS_REFUSED.labels["reason"])
