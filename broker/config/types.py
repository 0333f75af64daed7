"""Types of settings: words, sizes and times, as they may stand in an environment."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d{1,15})\s*(?:([kmg])(?:i?|ib)|b)?\Z", re.ASCII | re.IGNORECASE)
_UNITS = {None: 1, "k": KIB, "m": MIB, "g": GIB}


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value.strip())
    if match is None:
        raise ValueError("must be a number of bytes, or a number with KiB, MiB or GiB")
    return int(match[1]) * _UNITS[match[2].lower() if match[2] else None]


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Word = BeforeValidator(_lowered)
Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
