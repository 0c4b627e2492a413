"""`devroute doctor`: what this laptop's first request needs, checked in that order, each with a remedy.

Start at checks.py, which has the order. tunnel: a real link, opened for a moment; apps: the local apps. The
result of a check is a Finding (finding.py), which cli/doctor.py prints.
"""
