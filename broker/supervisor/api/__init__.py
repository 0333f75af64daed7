"""The server API: what services and operators may ask of the fleet, by HTTP.

``routes`` lists every route with its bodies (``messages``); the server is built from
that table, and so is the document that describes it (``openapi``). Each request goes
through ``gate``, which asks ``access`` who it is from.
"""
