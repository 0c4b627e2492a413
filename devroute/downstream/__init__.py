"""Accepts clients' HTTP/1.1 and HTTP/2, and passes each request to the upstream of its route: the data port
of the proxy, and the local HTTP ports of agent/reach.

Start at listener.py, then exchange.py: one request and its response, whatever the version. http1 and http2
read heads; http1_exchange and http2_exchange write responses. Compiled (setup.py).
"""
