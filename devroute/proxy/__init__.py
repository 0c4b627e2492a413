"""The process in the mesh (`devroute proxy`): data, control and admin port, and peer port, where replicas
share a registry.

Start at app.py, which starts and joins all of it. control/: sidecars, laptops' links, the API; egress/: what
laptops reach; telemetry/: log, audit, metrics, traces; dashboard/: the team's page; ports/: the small server
of HTTP/1.1. Imports nothing of agent/.
"""
