"""The inspector: what passed on the agent's path, kept in memory for the engineer.

exchange.py (what is kept of one request), redact.py and masks.py (what is taken out before), store.py (all
of them, bounded), tap.py (records on the path), replay.py (sends one again), compare.py (what differs between
two answers), curl.py and har.py (other forms), web.py (the page). Nothing here leaves the laptop.
"""
