"""One process: Redis Streams -> ring.

``watches`` holds what is read, ``desk`` takes the workers' requests, ``doorbell``
learns from Redis which streams changed, ``pump`` reads them into the ring, ``source``
keeps the connection, ``main`` puts them together.
"""
