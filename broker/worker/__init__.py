"""N processes: ring -> hub -> connections.

``dispatcher`` drains the ring, ``hub`` writes to the sockets that are at the tip,
``catchup`` brings the others there from the ring (``recent``) or from Redis
(``archive``), ``link`` asks the reader for sessions. ``server`` gives each request to
one of the ``edges``, which reads what its kind of client wants; ``reception`` and
``entrance`` decide about it, and ``doorway`` makes a ``connection`` of its socket. Its
``dialect`` knows how it is talked with; ``commands`` takes what is said in our own
protocol to ``requests`` or ``applications``.
``plane`` is the worker's end of the control plane.
"""
