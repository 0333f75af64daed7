"""Everything kept in Redis; the only package that imports redis and hiredis.

::

    address     a Redis URL, taken apart
    keys        the name of every key
    connection  one raw RESP3 connection: pipelined, with pushes, without retry
    replies     error replies as exceptions
    server      which server this is, and whether its doorbell works
    standing    a connection that is opened again whenever it is lost
    scripts     Lua: each is one decision that Redis takes as a whole
    streams     reads of event streams, and how their replies are taken apart
    loss        what was lost between two reads, counted exactly (pure)
    sessions    open sessions of users: leases, fences, tombstones
    offsets     committed positions of consumers
    commands    the clients' commands: stored once, trimmed when read
    groups      the services' end of them: a consumer group
    once        events that are stored once however often they are sent
    presence    who is connected to a session
    revocations users and tokens that have lost access
    client      redis-py for what is rare: publishing, probing
    embedded    a server of our own for development and tests
"""
