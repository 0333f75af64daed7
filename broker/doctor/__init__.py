"""Looks at Redis, key set and machine and says what will hurt, before it does.

::

    doctor     the same look at Redis when the broker starts
      verb       broker doctor
      examine    asks every server, gathers the findings
      server     what one server says about itself: pure, from what was read
      probes     what has to be tried: tracking, rights, clock, latency
      sentinels  whether those who watch over the primary agree
      rights     the least rights that Redis must give the broker, as one ACL line
      tokens     whether the keys of an identity provider can be fetched
      machine    limits of this machine and container
      finding    what was found, and what to do about it
"""

from broker.doctor.examine import beside
from broker.doctor.verb import doctor

__all__ = ["beside", "doctor"]
