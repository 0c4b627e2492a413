"""`python -m devroute`, for where the command is not on the path."""

from devroute.cli.main import main

main()
