"""The project's own lint rules, run by `make lint`: the package's layout, which module spells header names,
who owns a task, what tests wait for, and the words that are used. source.py reads the files for them.
"""
