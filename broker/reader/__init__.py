"""One process: Redis Streams -> ring.

``watches`` holds the streams that are read, each a ``watched``; ``desk`` takes the
workers' requests, ``doorbell`` learns from Redis which streams changed, ``pump`` reads
them into the ring, ``source`` keeps the connection, ``main`` puts them together.
"""
