"""Counters that outlive the process that counts, and one table of all of them.

``catalog`` is the table: every metric, its help text and its closed list of labels.
``slots`` is the shared memory in which each process counts in a row of its own.
``pulse`` is what every process counts by the clock.
``export`` turns the rows into the text that Prometheus reads.

Nobody is asked when a scrape comes: the numbers already lie in memory that the
supervisor shares, so a dead or hung process can neither break nor delay a scrape.
"""
