"""The project's own lint rules, run by `make lint`: the package's layout, which module spells header names,
who owns a task, and the words that are used.
"""
