"""N processes: ring -> hub -> connections.

``dispatcher`` drains the ring, ``hub`` writes to the sockets that are at the tip,
``catchup`` brings the others there from the ring (``recent``) or from Redis
(``archive``), ``link`` asks the reader for sessions. ``server`` and ``handshake``
let clients in, ``connection`` is one socket, ``commands`` answers what it says.
"""
