"""The entry point of `devroute`, and of `python -m devroute` for where the command is not on the path."""

from devroute.platforms import without_collections


def main() -> None:
    with without_collections():
        from devroute.cli import main as command_line
    command_line.main()


if __name__ == "__main__":
    main()
