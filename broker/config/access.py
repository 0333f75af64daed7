"""Settings of who may connect."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from broker.config.types import Seconds, SecondsOrZero, Word

Network = IPv4Network | IPv6Network

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]+\Z", re.IGNORECASE)


class AccessSettings(BaseModel):
    """Identity, tokens, and from where pages may come."""

    auth: Annotated[Literal["none", "api_key", "jwt"], Word] = Field(
        "none",
        description="Who may connect: none (everybody who reaches the port reads every "
        "session), api_key, or jwt.",
    )
    allow_insecure: bool = Field(
        False, description="Let auth=none listen on addresses other than loopback."
    )
    admin_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer token of the server API on the admin port. Without one the "
        "API is off unless the port is on loopback or admin_open is set.",
    )
    admin_open: bool = Field(
        False,
        description="Let the server API answer without a token, where a network policy "
        "guards the admin port.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="auth=api_key: JSON array of hashed keys; broker key prints them.",
    )
    api_keys_file: str = Field(
        "", description="auth=api_key: file with the same JSON; read at start."
    )
    jwt_secret: SecretStr = Field(
        SecretStr(""),
        description="auth=jwt: secret of HS256 tokens, 32 bytes at least.",
    )
    jwt_public_key_file: str = Field(
        "", description="auth=jwt: PEM file with the public key of RS256 or ES256."
    )
    jwt_jwks_url: str = Field(
        "", description="auth=jwt: URL of the key set of RS256 or ES256 tokens."
    )
    jwks_cache_s: Seconds = Field(
        300, description="Seconds after which the key set is fetched again."
    )
    jwt_audience: str = Field(
        "",
        description="auth=jwt: what aud of a token must contain; empty: not checked.",
    )
    jwt_issuer: str = Field(
        "", description="auth=jwt: what iss of a token must be; empty: not checked."
    )
    jwt_leeway_s: SecondsOrZero = Field(
        5, description="Seconds by which clocks may differ when a token is checked."
    )
    auth_timeout_s: Seconds = Field(
        10,
        description="Seconds for the auth frame of a socket that came without token.",
    )
    token_in_query: bool = Field(
        False,
        description="Accept ?token=; proxies and browser histories keep URLs.",
    )
    token_warn_s: SecondsOrZero = Field(
        60, description="Seconds before its expiry that a client is told of it."
    )
    origins: str = Field(
        "",
        description="Comma-separated Origin values that browsers may come from; empty: "
        "only the host they connect to; *: any.",
    )

    trusted_proxies: str = Field(
        "",
        description="Comma-separated addresses and networks of load balancers, such as "
        "10.0.5.0/28, whose X-Forwarded-For and X-Forwarded-Host are believed; no "
        "network that clients are in. Default: nobody's.",
    )

    @model_validator(mode="after")
    def _auth_can_work(self) -> Self:
        if self.auth == "api_key" and not (self.api_keys or self.api_keys_file):
            raise ValueError(
                "BROKER_AUTH=api_key needs BROKER_API_KEYS or BROKER_API_KEYS_FILE"
            )
        ways = {
            "BROKER_JWT_SECRET": self.jwt_secret,
            "BROKER_JWT_PUBLIC_KEY_FILE": self.jwt_public_key_file,
            "BROKER_JWT_JWKS_URL": self.jwt_jwks_url,
        }
        given = [name for name, value in ways.items() if value]
        if self.auth == "jwt" and len(given) != 1:
            raise ValueError(
                "BROKER_AUTH=jwt needs exactly one of BROKER_JWT_SECRET, "
                "BROKER_JWT_PUBLIC_KEY_FILE and BROKER_JWT_JWKS_URL; set: "
                f"{', '.join(given) or 'none'}"
            )
        return self

    @field_validator("jwt_secret")
    @classmethod
    def _secret_is_long(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value().encode()) < 32:
            raise ValueError("must be at least 32 bytes long (RFC 7518 section 3.2)")
        return secret

    @field_validator("origins")
    @classmethod
    def _origins_are_origins(cls, origins: str) -> str:
        for origin in _split(origins):
            if origin not in {"*", "null"} and not _ORIGIN.match(origin):
                raise ValueError("must list origins such as https://app.example.com")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: str) -> str:
        for proxy in _split(proxies):
            try:
                network = ip_network(proxy)
            except ValueError:
                raise ValueError(_network_hint(proxy)) from None
            first = network.network_address
            if isinstance(first, IPv6Address) and (
                first.ipv4_mapped or first.is_link_local
            ):
                raise ValueError(f"{proxy} matches nobody: write it as IPv4, or global")
        return proxies

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """The entries of ``trusted_proxies``; an address is a network of one."""
        return tuple(map(ip_network, _split(self.trusted_proxies)))

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The entries of ``origins`` in lower case; empty means same host only."""
        return frozenset(_split(self.origins.lower()))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _network_hint(text: str) -> str:
    """Why *text* is no network; a network given by one of its hosts is named."""
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        return "must list addresses or networks such as 10.0.5.0/28, no names"
    return f"{text} is a host in a network: {meant} or {text.partition('/')[0]}"
