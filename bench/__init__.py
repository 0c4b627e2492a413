"""devroute beside what people would pick instead, in one run: `make bench` (README.md)."""
