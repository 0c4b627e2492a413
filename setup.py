"""All about the package stands in pyproject.toml. This adds one choice: with DEVROUTE_COMPILE=1, mypyc turns
the modules that every request passes through into C, which halves what they cost. Without it they are plain
Python, and behave alike: the tests run with both (`make test-compiled`).

What mypyc 2.4 gets wrong, and compiled modules do without: `__call__` in a class that has a base; slices that
end before they begin; calls inside a slice of what is neither bytes, str nor list (they happen twice).
"""

import os

from setuptools import setup

COMPILED = [
    *("accesslog", "app_upstream", "audit", "body", "connection", "counters", "detours", "direct", "heads"),
    *("h2_connection", "h2_direct", "h2_exchange", "h2_heads", "h2_server", "h2_stream", "h2_upstream"),
    *("http1", "http1_fields", "lines", "observer", "pool", "pools", "port", "relay", "router", "server"),
    *("tunnel.agent_end", "tunnel.events", "tunnel.frames", "tunnel.link", "tunnel.proxy_end"),
    *("tunnel.sending", "tunnel.session", "tunnel.stream_end", "tunnel.streams", "tunnel.websocket"),
]

extensions = []
if os.environ.get("DEVROUTE_COMPILE"):
    from mypyc.build import mypycify

    extensions = mypycify([f"devroute/{name.replace('.', '/')}.py" for name in COMPILED], opt_level="3")

setup(ext_modules=extensions)
