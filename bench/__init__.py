"""`make bench`: devroute and its alternatives, measured in one run (README.md)."""
