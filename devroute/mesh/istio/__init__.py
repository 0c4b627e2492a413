"""What istiod makes of a mesh's configuration, as far as devroute needs it: Envoy configurations in Istio's
shape, and EnvoyFilters applied to them. Pure: documents in, documents out.

Start at sidecar.py (gateway.py is its sibling), then envoy_filter.py and patches.py. rules: what Istio would
ignore or refuse.
"""
