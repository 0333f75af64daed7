"""Who may connect, which sessions are open, what was committed, what is said upstream.

Nothing here touches an event on its way to a socket.
"""
