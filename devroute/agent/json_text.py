"""Parses JSON from another process. Pure; imports nothing that is slow to load."""

import json
from typing import Any


def json_object(text: bytes) -> dict[str, Any] | None:
    """None if it is anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
