"""Events from Redis Streams to WebSocket clients, and nobody loses one untold.

The data flows down this list, and imports point down it only::

    service --XADD--> Redis Stream
                          |            store/       everything that talks to Redis
                          v
                        reader/        one process: streams -> ring
                          |
                        ring/          shared memory: one writer, many readers
                          |
                        worker/        N processes: ring -> hub -> sockets
                          |
                        protocols/     the bytes on the wire
                          v
                       clients

``control/`` is beside the data: who may connect, which sessions are open, what was
committed, what clients say to services. ``client/`` is what those services use.
``supervisor/`` starts, watches, restarts and drains these processes.
``ARCHITECTURE.md`` follows one event through the files by name.
"""

__version__ = "0.1.0"
