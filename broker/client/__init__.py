"""What programs on the other side use: services by Redis, clients by the socket.

::

    client     events of sessions and commands to services, for programs
      stream     the events of one session, as an iterator
        flow       reads them over its connections, into
        inbox      what has come and was not taken yet
        acks       says how far a consumer is done
      sender     says commands until each is answered
    tail       the same events frame by frame, for the command line
    follow     one connection after the other: when, and with which token
      link       one connection, from the request to its end
    commands   what clients say, for services: a consumer of the command stream
    publisher  events of services, each stored once
"""

from broker.client.client import Client
from broker.client.commands import Command, CommandConsumer
from broker.client.errors import ClosedByServer, CommandRefused, CommandUnanswered
from broker.client.items import Event, Gap, Item, Notice, Reset, Skipped
from broker.client.publisher import Publisher
from broker.client.stream import Stream
from broker.client.tokens import TokenProvider, TokenReason

__all__ = [
    "Client",
    "ClosedByServer",
    "Command",
    "CommandConsumer",
    "CommandRefused",
    "CommandUnanswered",
    "Event",
    "Gap",
    "Item",
    "Notice",
    "Publisher",
    "Reset",
    "Skipped",
    "Stream",
    "TokenProvider",
    "TokenReason",
]
