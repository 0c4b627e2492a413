"""What the proxy reports: access log, audit trail, metrics, and traces.

Start at observer.py, where each request's end is observed once, and telemetry.py, which owns the writers. A
request pays a few microseconds (bench/telemetry_cost.py): lines are joined from bytes and written in batches.
"""
