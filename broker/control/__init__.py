"""Who may connect, which sessions are open, what was committed, what is said upstream.

Nothing here touches an event on its way to a socket::

    identity, authenticator    who has a token, and what that allows
    api_keys, tokens, jwks     the ways to find out
    revocations                who has lost access
    sessions, stays, janitor   open sessions: leases, evictions, what time brings
    lifecycle                  what services are told of them
    commits, auto_commits      positions of consumers
    upstream                   commands of clients
    presence                   who is connected to a session
    notices                    what the processes of the fleet tell each other
"""
