"""N processes: ring -> hub -> connections.

``dispatcher`` drains the ring, ``hub`` writes to the sockets that are at the tip,
``catchup`` brings the others there from the ring (``recent``) or from Redis
(``archive``), ``link`` asks the reader for sessions. ``server`` and ``handshake``
read what clients want, ``reception`` and ``entrance`` decide about it; ``connection``
is one socket, ``commands`` takes what it says to ``requests`` or ``applications``.
``plane`` is the worker's end of the control plane.
"""
