"""What is permitted: targets, registrations, callers, and what laptops reach. Denies by default. Pure.

Start at policy.py, which decides, and file.py, the format (docs/policy.md). rules, values, ranges: its parts;
cases, explain: for `devroute policy`. Resolves no name: what connects asks `permit_address` for each address.
"""
