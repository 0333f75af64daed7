"""Tokens as an identity provider would make them."""

from __future__ import annotations

import time
from typing import Any

import jwt

SECRET = "a secret that only the tests and the broker know"


def now_s() -> float:
    """Unix time."""
    return time.time_ns() / 1e9


def token(
    user: str = "ada", *, key: str = SECRET, lives_s: float = 300, **claims: Any
) -> str:
    """A token that may read and command everything, unless *claims* say otherwise."""
    now = now_s()
    body = {
        "sub": user,
        "iat": now,
        "exp": now + lives_s,
        "sessions": ["*"],
        "rights": ["subscribe", "command"],
    }
    return jwt.encode(body | claims, key, algorithm="HS256")


def bearer(text: str) -> list[tuple[str, str]]:
    """The header that carries a token."""
    return [("Authorization", f"Bearer {text}")]
