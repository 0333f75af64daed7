"""Everything kept in Redis; the only package that imports redis and hiredis.

::

    address     a Redis URL, taken apart
    keys        the name of every key
    connection  one raw RESP3 connection: pipelined, with pushes, without retry
    replies     error replies as exceptions
    server      which server this is, and whether its doorbell works
    streams     reads of event streams, and how their replies are taken apart
    loss        what was lost between two reads, counted exactly (pure)
    client      redis-py for what is rare: publishing, probing
    embedded    a server of our own for development and tests
"""
