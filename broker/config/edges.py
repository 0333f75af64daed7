"""Settings of what else than our own clients is served."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from broker.model import is_session_name

PROTOCOLS = ("openhands", "council")


class EdgeSettings(BaseModel):
    """Foreign protocols and the console."""

    protocols: str = Field(
        ",".join(PROTOCOLS),
        description="Foreign protocols that are served beside broker.v1, separated by "
        f"commas: any of {', '.join(PROTOCOLS)}; or none.",
    )
    council_session: str = Field(
        "",
        description="Session that every client of /ws reads which names none; empty: "
        "the sessions of its user.",
    )
    console: bool = Field(
        False,
        description="Serve the console and the browser client at /console; broker dev "
        "does.",
    )

    console_session: str = Field(
        "", description="Session that the console opens first; empty for none."
    )

    @field_validator("protocols")
    @classmethod
    def _protocols_are_known(cls, text: str) -> str:
        if text.strip().lower() != "none" and set(_names(text)) - set(PROTOCOLS):
            raise ValueError(f"is none, or some of {', '.join(PROTOCOLS)}")
        return text

    @field_validator("council_session", "console_session")
    @classmethod
    def _session_is_one(cls, name: str) -> str:
        if name and not is_session_name(name):
            raise ValueError("must be the name of a session, or empty")
        return name

    @property
    def served_protocols(self) -> frozenset[str]:
        """The entries of ``protocols``."""
        return frozenset(_names(self.protocols)) - {"none"}


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.lower().split(",") if part.strip()]
