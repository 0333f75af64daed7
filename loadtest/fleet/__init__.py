"""WebSocket clients by the thousand: one epoll loop per process, little Python each.

``wire`` and ``dialects`` are the bytes, ``tally`` counts events in whole chunks,
``account`` follows single frames, ``client`` is one socket, ``loop`` the process,
``remote`` the controller's handle on several of them.
"""
