"""JSON that another process has sent. Pure, and without what takes long to import."""

import json
from typing import Any


def json_object(text: bytes) -> dict[str, Any] | None:
    """None if it is anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
