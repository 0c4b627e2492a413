"""The control port: what sidecars and gateways ask and report, laptops' links, and the API for people.

Start at listener.py, which finds out by a connection's first head which of these it is: sidecars.py,
tunnels.py, or api.py and contracts.py by aiohttp. Where a request goes is decided in routing/.
"""
