"""Shadow traffic: laptops that get copies of a share of ordinary requests, and the comparison of responses.

Start at traffic.py, which owns what a registered laptop has of this. assignment: which laptops, by policy;
comparison: pairs of responses; notifier: sends them to the laptop. All but the notifier's sending is pure.
"""
