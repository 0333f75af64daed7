"""What programs on the other side use: services by Redis, clients by the socket.

::

    commands   what clients say, for services: a consumer of the command stream
    publisher  events of services, each stored once
    tail       a WebSocket client that resumes
"""

from broker.client.commands import Command, CommandConsumer
from broker.client.publisher import Publisher

__all__ = ["Command", "CommandConsumer", "Publisher"]
