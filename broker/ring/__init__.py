"""Shared memory between the processes of a pod: one writer, many readers, no Redis.

``layout`` says where everything lies, ``segment`` owns the memory, ``transmitter``
writes records and ``receiver`` reads them, ``records`` gives the payloads a shape,
``requests`` is what workers ask of the reader, ``board`` is what each process says
about itself, ``doorbell`` wakes sleepers.
"""
