"""Where a request goes: contract, policy and registered laptops make a decision, and from it a route.

Start at SIDECAR.md, what sidecars and proxy say to each other, and decision.py, the rules. router: decides
again for each request that arrives; route_builder: its upstream; registry: the laptops; named_contracts:
saved contracts. Opens no connection.
"""
