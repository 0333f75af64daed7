"""The simplest servers one could write instead: they make the events themselves.

``send_str`` is a loop over aiohttp's ``WebSocketResponse.send_str``; ``os_write`` is a
loop of ``os.write`` of the ready frame to every socket, the least that Python can do.
"""
