"""The kinds of clients that a worker serves: routes, and how each is talked with.

::

    edge      what the server needs of one
    native    /v1: broker.v1 and event streams

The bytes are in `broker.protocols`. An edge reads requests, says what is wanted and
with which dialect; everything else is the same for all: who comes in, sessions,
fan-out, replay.
"""
