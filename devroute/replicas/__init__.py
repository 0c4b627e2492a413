"""Several proxies as one: they share the registry and saved contracts in Redis, and forward requests to each
other. No request waits for Redis: each replica has all of it in memory.

Start at REGISTRY.md, the keys in Redis, then shared_registry.py and shared_contracts.py. node_links, node:
the links to other replicas; local_laptops: what is served to them (docs/ha.md).
"""
