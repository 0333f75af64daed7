"""The kinds of clients that a worker serves: routes, and how each is talked with.

::

    edge             what the server needs of one
    native           /v1: broker.v1 and event streams
    console          /console: the page
    openhands_v0     /socket.io: conversations of OpenHands V0
    openhands_v1     /sockets: those of V1, with sockets, starts
    openhands_rest   /api and probes: the same by HTTP, with past, acts
    council          /ws: the hub of Council, with visit, commands

The bytes are in `broker.protocols`. An edge reads requests, says what is wanted and
with which dialect; everything else is the same for all: who comes in, sessions,
fan-out, replay.
"""
