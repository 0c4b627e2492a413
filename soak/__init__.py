"""Minutes of mixed good, bad and hostile traffic against what is shipped: proxy, tunnels, a real Envoy.

python -m soak [SECONDS]; see README.md. Everything is on loopback, and ends with the run.
"""
