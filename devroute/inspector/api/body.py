"""Reads the JSON that requests of the API have as their body, and values in it."""

from typing import Any

from aiohttp import web

from devroute.errors import RequestMalformed


async def json_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises RequestMalformed."""
    try:
        document = await request.json()
    except (ValueError, RecursionError):
        raise RequestMalformed("the body is not JSON") from None
    if not isinstance(document, dict):
        raise RequestMalformed("the body is not a JSON object")
    return document


def truth(document: dict[str, Any], name: str) -> bool:
    """A value that has to be there, and true or false. Raises RequestMalformed."""
    value = document.get(name)
    if not isinstance(value, bool):
        raise RequestMalformed(f'"{name}" has to be true or false')
    return value
