"""JSON documents as tables for a terminal: rows as columns, values as words. Pure."""

from collections.abc import Mapping, Sequence

from devroute.quoting import visible


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys as aligned columns under their names in capitals."""
    keys = list(rows[0])
    lines = [[key.upper().replace("_", " ") for key in keys]]
    lines += [[cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def objects(value: object) -> list[dict[str, object]]:
    """The objects in a list of a server's document; none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def cell(value: object) -> str:
    """A JSON value as a person reads it."""
    if value is None or value == [] or value == "":
        return "-"
    if isinstance(value, dict):
        return "; ".join(f"{cell(key)}: {cell(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(cell(inner) for inner in value)
    text = str(value) if not isinstance(value, bool) else ("yes" if value else "no")
    return visible(text)
