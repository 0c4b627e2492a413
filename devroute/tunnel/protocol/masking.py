"""XORs the payload of WebSocket frames with their keys (RFC 6455 §5.3), in place.

aiohttp has a routine in C for it. It is loaded by itself, since its import would be that of all of aiohttp,
which takes a third of the start of `devroute up`. Without it (PyPy, no wheel) arithmetic does the same at a
fifth of the speed.
"""

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder

Mask = Callable[[bytes, bytearray], None]


def mask_arithmetically(key: bytes, data: bytearray) -> None:
    size = len(data)
    repeated = (key * (size // 4 + 1))[:size]
    data[:] = (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def find_mask() -> Mask:
    """The fastest there is."""
    package = importlib.util.find_spec("aiohttp")
    folders = (package and package.submodule_search_locations) or ()
    spec = PathFinder.find_spec("aiohttp._websocket.mask", [f"{each}/_websocket" for each in folders])
    if spec is None or spec.loader is None:
        return mask_arithmetically
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: Mask = module._websocket_mask_cython
    except (ImportError, AttributeError):
        return mask_arithmetically
    return found
