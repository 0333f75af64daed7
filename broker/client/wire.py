"""What a client reads of ``broker.v1``: frames, and the place in the stream they mean.

PROTOCOL.md, "Frames from the server" and "Resume".
"""

from __future__ import annotations

import msgspec
import orjson

SUBPROTOCOL = "broker.v1"


class Frame(msgspec.Struct, frozen=True):
    """A frame of ``broker.v1``; ``data`` is left as JSON text."""

    event: str
    id: str | None = None
    seq: int | None = None
    session: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: str | None = None
    node_id: str | None = None


class Details(msgspec.Struct, frozen=True):
    """The parts of ``data`` that a client acts on, in the broker's own frames."""

    # welcome
    user: str | None = None
    heartbeat_s: float = 25.0
    max_frame_bytes: int = 65_536
    # subscribed, reset, caught_up
    resume: str = ""
    start: str | None = msgspec.field(name="from", default=None)
    tip: str | None = None
    position: str | None = None
    # closing
    delay_ms: int | None = None
    # What answers a command.
    ref: str | None = None
    id: str = ""
    code: str | int = ""
    message: str = ""
    retry: bool = False


read_frame = msgspec.json.Decoder(Frame).decode
"""Read the text of a frame; `msgspec.DecodeError` if it is none."""
read_details = msgspec.json.Decoder(Details).decode


def command_text(
    cmd: str, name: str, data: dict[str, object] | None, session: str = ""
) -> str:
    """What a client says; *name* comes back as ``ref``.

    Raises:
        TypeError: *data* cannot be written as JSON.
    """
    frame: dict[str, object] = {"cmd": cmd, "id": name}
    if session:
        frame["session"] = session
    if data is not None:
        frame["data"] = data
    return orjson.dumps(frame).decode()


def is_reset(frame: Frame) -> bool:
    """Whether the frame says that the stream is another one from here on."""
    if frame.id is not None or frame.event not in {"reset", "subscribed"}:
        return False
    return frame.event == "reset" or read_details(frame.data).resume == "reset"


class Place:
    """Where in a session's stream somebody stands, by the frames that he has had.

    Attributes:
        position: From where a connection resumes, as it goes into ``last_event_id``;
            None: live only.
    """

    def __init__(self, start: str | None) -> None:
        self.position = start

    def note(self, frame: Frame) -> None:
        """Move behind *frame*."""
        if frame.id is not None:
            self.position = frame.id
        elif frame.event in {"subscribed", "reset", "caught_up"}:
            self._move(frame.event, read_details(frame.data))

    def _move(self, event: str, details: Details) -> None:
        match event, details.resume:
            case ("subscribed", "live"):
                # The next connection must not skip what happens in between.
                self.position = details.tip
            case ("subscribed", "reset") | ("reset", _):
                self.position = details.start
            case ("caught_up", _):
                self.position = details.position or self.position
            case _:
                pass
