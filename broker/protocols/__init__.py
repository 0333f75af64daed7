"""Edge protocols: pure wire formats, without a loop, a server or a store.

``websocket`` frames bytes (RFC 6455), ``native`` is the JSON of ``broker.v1``,
``sse`` the blocks of an event stream; ``formats`` puts them together into what the
fan-out writes.
"""
