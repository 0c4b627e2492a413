"""The jobs of docs/ci.md: each is one that GitHub or GitLab takes, and its commands, line by line, have a
build called by the mesh for its own tests and for no one else."""

import asyncio
import json
import os
import re
import string
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import yaml
from aiohttp import web
from check_jsonschema.builtin_schemas import get_builtin_schema

from devroute.auth.tokens import new_token
from tests.docs import pages
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.paths import ROOT
from tests.support.ports import free_port

FILES = pages.files(ROOT / "docs" / "ci.md")
SCHEMAS = {"e2e.yaml": "vendor.github-workflows", "gitlab-ci.yaml": "vendor.gitlab-ci"}
#: What the CI itself sets.
GITHUB = {"github.run_id": "1234", "github.run_attempt": "1"}
GITLAB = {"CI_JOB_ID": "1234", "GITLAB_USER_LOGIN": "alice"}
#: `make build` of B, and the tests of A, which calls it.
MAKE = "#!/bin/sh\nmkdir -p build && cp b.py build/b && chmod +x build/b\n"
BUILD = """#!{python} -IS
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the build")

HTTPServer(("127.0.0.1", int(sys.argv[2])), App).serve_forever()
"""
TESTS = """
import urllib3

def test_a_calls_this_build():
    assert urllib3.request("GET", {url!r}).data == b"from the build"
"""


@dataclass
class Job:
    """Its variables, commands, and those that run at the end, whatever happened."""

    variables: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)


def parsed(name: str) -> Any:
    document = yaml.safe_load(FILES[name])
    return {"on" if key is True else key: value for key, value in document.items()}  # YAML 1.1's other true


def job_in(name: str) -> Job:
    document = parsed(name)
    if name == "gitlab-ci.yaml":
        job = document["e2e"]
        given = job["variables"].items()
        known = {each: string.Template(text).safe_substitute(GITLAB) for each, text in given}
        return Job(known, [*job["before_script"], *job["script"]], job["after_script"])
    job = document["jobs"]["e2e"]

    def value(text: str) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: GITHUB.get(found[1], ""), text)

    found = Job({each: value(text) for each, text in job["env"].items()})
    for step in job["steps"]:
        if "run" in step:
            (found.last if step.get("if") == "always()" else found.commands).append(step["run"])
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_job_is_of_the_form_that_its_service_takes(name: str) -> None:
    schema = get_builtin_schema(SCHEMAS[name])
    jsonschema.validators.validator_for(schema)(schema).validate(parsed(name))


async def entry_to(mesh: Mesh) -> str:
    """The URL of A, which calls B and passes the contract on."""

    async def of_the_mesh(_: web.Request) -> web.Response:
        return web.Response(text="from the mesh")

    b = await mesh.sidecar("b", await mesh.stack.enter_async_context(serving(of_the_mesh)))

    async def calls_b(request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() == "x-devroute"}
        async with mesh.client.get(b, headers=headers) as response:
            return web.Response(text=await response.text())

    return await mesh.sidecar("a", await mesh.stack.enter_async_context(serving(calls_b)))


@pytest.mark.mesh
@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
async def test_its_commands_have_the_mesh_call_the_build_for_this_job(name: str, tmp_path: Path) -> None:
    (secret, record), job = new_token("alice" if "gitlab" in name else "ci"), job_in(name)
    site, home = tmp_path / "site", tmp_path / "home"
    for folder in (site, home / "bin", home / "tests" / "e2e"):
        folder.mkdir(parents=True)
    async with real_mesh(site, record) as mesh:
        url, port = await entry_to(mesh), str(free_port())
        files = {"bin/make": MAKE, "bin/pip": "#!/bin/sh\n", "b.py": BUILD.format(python=sys.executable)}
        files["tests/e2e/test_shop.py"] = TESTS.format(url=url)
        for file, text in files.items():
            (home / file).write_text(text, encoding="utf-8")
            (home / file).chmod(0o755)
        known = {"DEVROUTE_SERVER": mesh.proxy.server, "DEVROUTE_TOKEN": secret, "DEVROUTE_HOSTS": url}
        environment = job.variables | known | {"HOME": str(home)}
        try:
            for command in job.commands:
                line = command.replace("8001", port).replace("http://a.qa.example/", url)
                shown = await run(line, home, environment)
                if line.startswith("pytest"):
                    assert f"1  traced: {name_of(job)}'s laptop answered at 'b'" in shown
            async with aiohttp.ClientSession() as other, other.get(url) as response:
                assert await response.text() == "from the mesh"
        finally:
            for command in job.last:
                await run(command, home, environment)
        headers = {"x-devroute": job.variables["DEVROUTE_CONTRACT"]}
        assert json.loads(headers["x-devroute"]) == {"b": name_of(job)}
        async with aiohttp.ClientSession() as late, late.get(url, headers=headers) as response:
            assert await response.text() == "from the mesh"


def name_of(job: Job) -> str:
    return job.variables["DEVROUTE_NAME"]


async def run(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """As the runner does; returns the output. The plugin is loaded by name: it may not be installed yet."""
    path = f"{folder / 'bin'}:{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    own = {"PATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p devroute.pytest_plugin"}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-e", "-c", command),
        cwd=folder,
        env={**environment, **own},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, f"{command}: {output.decode()}"
    return output.decode()
