"""The command line: a module for each command, or for a few related ones, imported when it is run.

Start at main.py, and commands.py for the list. Arguments, environment and configuration files are read here;
the work is done by the packages below. config/: where settings come from.
"""
