"""`make ha`: three replicas of the proxy under load while each part of them fails, with figures (docs/ha.md).

ledger.py, figures.py   what became of each request; what a phase found, and what it has to find. Pure
scale.py                how many and for how long: the whole run, and the quick one
endpoints.py, mesh.py   a Service's endpoints, and all processes of a run
load.py                 requests at a fixed rate through a real Envoy, each for a laptop of its own
apps.py, laptops.py     many agents with their apps, in a process of their own
links.py                links without an agent, for thousands of registrations
closed_loop.py          requests one after the other on each connection, for rates
phases/                 one module for each part of a run
"""
