"""Long texts in vectors: a list of texts, and of texts with the number of times that they are repeated."""

from typing import Any


def spelled_out(text: Any) -> str:
    """A text of a vector as it is meant: `["a", ["b", 3]]` is "abbb"."""
    parts = [text] if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)
