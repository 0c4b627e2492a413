"""The project's own lint rules, run by `make lint`: the layout of the package, and the words that it uses."""
