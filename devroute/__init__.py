"""devroute: a laptop becomes part of a service mesh, for one request at a time."""

__version__ = "0.1.0"
