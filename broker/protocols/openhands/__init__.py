"""OpenHands: the wire formats of its three protocol generations. Pure.

::

    socketio      packets of Socket.IO 5 in Engine.IO 4
    v0            V0: conversations over Socket.IO
    v1            V1: what its two sockets have in common
    v1_formats    V1: the frames of the two
    rest          V1: what HTTP requests ask for
    rest_answers  V1: what they are answered
"""
