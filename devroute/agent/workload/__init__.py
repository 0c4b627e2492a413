"""The environment that a container of a workload has in the mesh, from Kubernetes objects as text (`devroute
env`). Pure; never asks a cluster.

- objects: the objects of the text, and which container is meant.
- environment: its variables, with the precedence of Kubernetes, and what is missing.
- downward: fields and resources, as far as they make sense on a laptop.
- expansion: `$(NAME)` in values.
- formats: the variables as a dotenv file, for a shell, as JSON.

Values may be secrets: no message quotes one.
"""
