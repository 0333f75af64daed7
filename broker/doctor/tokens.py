"""Whether the keys of tokens can be had: a pod is ready without, and lets nobody in."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from broker.config import Settings
from broker.control.jwks import FETCH_TIMEOUT_S, BadKeySet, KeySet
from broker.doctor.finding import Finding, fail, ok
from broker.errors import ConfigError

CHECK: Final = "jwks"
WAY: Final = (
    "see that scheme, host and port of BROKER_JWT_JWKS_URL are right, and that the "
    "network lets us there without a proxy: in Kubernetes take in "
    "network-policy-jwks.yaml, with this port"
)
TRUST: Final = (
    "for a CA of your own let SSL_CERT_FILE name a file with its certificate that the "
    "broker may read; else see that the certificate is for this host, has not run out "
    "and is sent with its chain"
)
CONTENT: Final = (
    "see that BROKER_JWT_JWKS_URL is the jwks_uri that the issuer names in its "
    "/.well-known/openid-configuration, without a redirect, and that the issuer signs "
    "with RS256 (keys of 2048 bits at least) or ES256"
)


async def check_tokens(settings: Settings) -> list[Finding]:
    """Fetch the key set as a worker does, within the same bounds.

    Returns:
        Nothing where tokens are not checked with a key set.
    """
    if settings.auth != "jwt" or not settings.jwt_jwks_url:
        return []
    try:
        keys = KeySet(settings.jwt_jwks_url, settings.jwks_cache_s)
    except ConfigError as error:  # Its text repeats nothing of the URL.
        return [fail(CHECK, str(error), WAY)]
    where = _shown(settings.jwt_jwks_url)
    try:
        count = await keys.fetch()
    except (BadKeySet, aiohttp.ClientError, OSError, ValueError) as error:
        why, advice = _judge(error)
        text = f"{where}: {why}: no token can be checked, so no client gets in"
        return [fail(CHECK, text, advice)]
    finally:
        await keys.close()
    return [ok(CHECK, f"{where} can be fetched; usable keys: {count}")]


def _judge(error: Exception) -> tuple[str, str]:
    """What happened, and what to do; nothing of the error's text that has the URL."""
    match error:
        case BadKeySet():
            return f"no key set ({error})", CONTENT
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            reason = getattr(cause, "verify_message", type(cause).__name__)
            return f"its certificate is not believed ({reason.rstrip('.')})", TRUST
        case aiohttp.ClientSSLError():
            return "no TLS is spoken there that we can speak", WAY
        case aiohttp.ClientConnectorDNSError():
            return "the name of the host is not found", WAY
        case TimeoutError():
            return f"no answer within {FETCH_TIMEOUT_S:g} s", WAY
        case OSError(errno=int(number)):
            return f"cannot be reached ({os.strerror(number)})", WAY
        case _:
            return f"cannot be fetched ({type(error).__name__})", WAY


def _shown(url: str) -> str:
    """Without user, password and query; a password may have a slash in it."""
    parts = urlsplit(url)
    where = f"{parts.netloc}{parts.path}".rpartition("@")[2]
    return f"{parts.scheme}://{where}"
