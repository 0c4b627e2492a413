"""Where settings come from, and which source takes precedence. Pure: cli/invocation.py reads the files.

Start at sources.py. credentials: which are sent to which server; project_file: what the devroute.yaml of a
repository may set; yaml_edit: edits that leave the rest of a file as it was.
"""
