"""Local ports that lead into the mesh, with the clients that people use."""

import asyncio
import shutil

import pytest

from tests.agent.reach.mesh import Mesh, heads

pytestmark = pytest.mark.asyncio


async def curl(*arguments: str) -> str:
    """What it prints."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl")
    process = await asyncio.create_subprocess_exec(
        *(program, "-sS", "--max-time", "10", *arguments), stdout=asyncio.subprocess.PIPE, env={}
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


async def test_curl_uses_the_proxy_port_in_each_form() -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        at = f"127.0.0.1:{reach.proxy_port}"
        forms: list[tuple[str, ...]] = [
            ("--proxy", f"socks5h://{at}"),
            ("--proxy", f"http://{at}"),
            ("--proxytunnel", "--proxy", f"http://{at}"),
            ("--proxytunnel", "--proxy", f"http://{at}", "--http2-prior-knowledge"),
        ]
        bodies = await asyncio.gather(*(curl(*form, "http://c.shop/tea?x=1") for form in forms))
    assert bodies == ["tea"] * len(forms)
    assert all(head.startswith(b"GET /tea?x=1 HTTP/1.1\r\nhost: c.shop\r\n") for head in heads(mesh.c))


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_uses_a_forward(version: str) -> None:
    mesh = Mesh()
    async with mesh.reached("c.shop:80") as reach:
        url = next(iter(reach.local[0].variables.values()))
        assert await curl(version, f"{url}/tea") == "tea"
