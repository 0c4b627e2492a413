"""`devroute manifests check`: what is wrong in a platform team's own files, before they are applied.

Start at check.py; report.py has the result. schemas: what Istio's CRDs refuse; callers, policies, reach:
warnings. Starts no process: the caller passes a function that has an Envoy validate.
"""
