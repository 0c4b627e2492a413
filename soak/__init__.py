"""Minutes of good, bad and hostile traffic, mixed, against the real proxy, tunnels and Envoy.

python -m soak [SECONDS]; see docs/security.md. Everything runs on loopback and ends with the run.
"""
