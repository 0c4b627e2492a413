"""What a request is sent through: an app, a service or a tunnel, behind one interface.

Start at interface.py: Upstream and ResponseSink. Connections: pools, http1_pool, http2_pool, negotiating,
tcp. Wrappers of another upstream: quota, faults, mirror, failover, deferred. Where a request goes is not
decided here.
"""
