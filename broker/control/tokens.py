"""JSON Web Tokens (RFC 7519) of HS256, RS256 and ES256."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import exceptions
from jwt.algorithms import HMACAlgorithm

from broker.config import Settings
from broker.control.identity import (
    BadClaims,
    Identity,
    read_identity,
    read_name,
    unauthorized,
)
from broker.control.jwks import BadKey, KeySet, TokenKey, public_token_key
from broker.errors import ConfigError

TOKEN_BYTES_MAX: Final = 8 * 1024
TIME_MAX_S: Final = 2**53
"""Times beyond it are no numbers that everybody reads alike."""

_REASONS: Final = (
    (exceptions.ExpiredSignatureError, "expired"),
    (exceptions.ImmatureSignatureError, "not_yet_valid"),
    (exceptions.InvalidSignatureError, "signature"),
    (exceptions.InvalidAlgorithmError, "algorithm"),
    (exceptions.InvalidAudienceError, "audience"),
    (exceptions.InvalidIssuerError, "issuer"),
    (exceptions.MissingRequiredClaimError, "claims"),
    (BadClaims, "claims"),
)


class Tokens:
    """Reads tokens and believes those that are signed, meant for us and not run out.

    Args:
        keys: What they are signed with.
        audience: What ``aud`` must contain; None: not checked.
        issuer: What ``iss`` must be; None: not checked.
        leeway_s: Seconds by which the issuer's clock may differ from ours.
    """

    def __init__(
        self,
        keys: TokenKey | KeySet,
        audience: str | None = None,
        issuer: str | None = None,
        leeway_s: float = 0,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s

    @classmethod
    def from_settings(cls, settings: Settings) -> Tokens:
        """Take keys and checks from the settings ``BROKER_JWT_*``.

        Raises:
            ConfigError: The key cannot be used; the message repeats nothing of it.
        """
        return cls(
            _read_keys(settings),
            settings.jwt_audience or None,
            settings.jwt_issuer or None,
            settings.jwt_leeway_s,
        )

    async def identify(self, token: str) -> Identity:
        """Who has *token*.

        Its ``expires_at`` includes the leeway: until then it opens new connections.

        Raises:
            Unauthorized: It proves nothing.
            AuthUnavailable: The key that it names cannot be fetched.
        """
        if len(token) > TOKEN_BYTES_MAX or not token.isascii():
            raise unauthorized("malformed")
        try:
            key = self._keys
            if isinstance(key, KeySet):
                key = await _find_key(key, token)
            return self._read(self._verified(token, key))
        except (jwt.PyJWTError, BadClaims) as error:
            reason = _reason_of(error)
        # Out here the new error is not tied to the old one, which may quote the token.
        raise unauthorized(reason)

    def _verified(self, token: str, key: TokenKey) -> dict[str, object]:
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_s,
            options={
                "require": ["exp", "sub"],
                "verify_aud": self._audience is not None,
            },
        )

    def _read(self, claims: dict[str, object]) -> Identity:
        issued_at, token_id = claims.get("iat"), claims.get("jti")
        return read_identity(
            claims["sub"],
            claims,
            expires_at=_read_time("exp", claims["exp"]) + self._leeway_s,
            issued_at=None if issued_at is None else _read_time("iat", issued_at),
            token_id=None if token_id is None else read_name("jti", token_id),
        )

    async def close(self) -> None:
        """Give back what fetching keys has opened."""
        if isinstance(self._keys, KeySet):
            await self._keys.close()


async def _find_key(keys: KeySet, token: str) -> TokenKey:
    # The one thing that is believed before the signature was checked: it only chooses
    # among keys that are all trusted.
    key = await keys.find(jwt.get_unverified_header(token).get("kid"))
    if key is None:
        raise unauthorized("unknown_key")
    return key


def _read_time(claim: str, value: object) -> float:
    # PyJWT takes texts with digits as well, and truth for 1.
    if type(value) not in (int, float) or not abs(value) <= TIME_MAX_S:  # type: ignore[arg-type]
        raise BadClaims(f"{claim} is a number of seconds")
    return float(value)  # type: ignore[arg-type]


def _reason_of(error: Exception) -> str:
    return next((why for kind, why in _REASONS if isinstance(error, kind)), "malformed")


def _read_keys(settings: Settings) -> TokenKey | KeySet:
    if secret := settings.jwt_secret.get_secret_value():
        return _secret_key(secret)
    if settings.jwt_public_key_file:
        return _file_key(settings.jwt_public_key_file)
    return KeySet(settings.jwt_jwks_url, settings.jwks_cache_s)


def _secret_key(secret: str) -> TokenKey:
    try:
        key = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except exceptions.InvalidKeyError:
        raise ConfigError(
            "BROKER_JWT_SECRET: looks like a public key, which is no secret; its file "
            "belongs into BROKER_JWT_PUBLIC_KEY_FILE"
        ) from None
    return TokenKey(key, "HS256")


def _file_key(path: str) -> TokenKey:
    where = f"BROKER_JWT_PUBLIC_KEY_FILE={path}"
    try:
        return public_token_key(load_pem_public_key(Path(path).read_bytes()))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    except BadKey as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where}: holds no public key in PEM format") from None
