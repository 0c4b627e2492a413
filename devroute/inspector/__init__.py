"""The inspector: what passed on the agent's path, kept in memory for the engineer.

exchange.py (what is kept of a request; views.py makes JSON of it), redact.py and masks.py (what is taken out
before), store.py (all of them, bounded), tap.py and messages.py (record on the path), resend.py and replay.py
(send one again), regress.py (many, from a file), compare.py and documents.py (what differs between two
answers), curl.py, har.py and har_reader.py (other forms), web.py (the page). Nothing here leaves the laptop.
"""
