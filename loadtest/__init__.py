r"""Load tests: exact-rate publishers, a cheap client fleet, peers, and figures.

One run is four kinds of processes on fixed cores::

    publisher  --> server under test (broker with its Redis, or a peer) --> fleet
        \                      |                                             /
         +---- controller: starts them, reads /proc, prints the table ----+

``payload``     the one event that everybody carries, and how to find it in bytes
``publisher``   XADD or NATS PUB at an exact rate; ``pacing`` holds its deadlines
``fleet/``      WebSocket clients: one epoll loop per process
``baselines/``  the simplest servers one could write instead
``peers/``      how each server under test is started, fed and ended
``procstat``    CPU, memory and kernel buffers from /proc
``stage``       one measured run: connect, warm up, measure, drain, report
``scenarios/``  one file per question; ``report`` prints the answers
"""
