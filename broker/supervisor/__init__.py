"""The parent process: it starts the others, watches them and takes them down.

``supervisor`` is the loop of verbs, ``child`` one process with its restarts,
``health`` the rules of who is hung and when the pod is ready, ``resources`` what all
processes share, ``signals`` the requests to stop, ``probe`` an entry that travels the
whole way from Redis to each worker, ``admin`` what operators and Prometheus ask,
``status`` what the pod says about itself, ``usage`` what its processes use.
"""
