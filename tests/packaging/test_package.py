"""What `make package` and `make zipapp` have built: its contents, and that it installs and runs elsewhere."""

import asyncio
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest

from devroute import __version__
from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from tests.support.eventually import eventually
from tests.support.paths import ROOT

DIST = ROOT / "dist"
PREAMBLE = ROOT / "package" / "preamble.py"
#: Folders of the checkout, and what they are called in the package.
FOLDERS = {"devroute": "devroute", "lua": "devroute/lua", "demo": "devroute/demo_files"}

built = pytest.mark.slow
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def sources(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def test_every_data_file_of_the_package_is_listed() -> None:
    """Without building it: a file that pyproject.toml does not name would be missing from the wheel."""
    listed, data = set(SETUPTOOLS["packages"]), SETUPTOOLS["package-data"]
    missing = []
    for old, new in FOLDERS.items():
        for name in sources(old):
            file = Path(new, Path(name).relative_to(old))
            parents = {".".join(each.parts): file.relative_to(each).as_posix() for each in file.parents[:-1]}
            package = next(each for each in parents if each in listed)
            if file.suffix != ".py" and not any(
                fnmatch(parents[package], each) for each in data.get(package, ())
            ):
                missing.append(name)
    assert missing == []


@built
def test_the_wheel_has_the_package_and_nothing_else() -> None:
    (wheel,) = DIST.glob("*.whl")
    assert wheel.name == f"devroute-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {name.replace(old, new, 1) for old, new in FOLDERS.items() for name in sources(old)}
    about = f"devroute-{__version__}.dist-info/"
    assert {each for each in names if not each.startswith(about)} == expected
    assert f"{about}licenses/LICENSE" in names


@built
def test_the_source_distribution_has_what_builds_the_wheel() -> None:
    (archive,) = DIST.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {each.name.partition("/")[2] for each in opened if each.isfile()}
    files = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}
    expected = {each for folder in FOLDERS for each in sources(folder)} | files
    assert {each for each in names if not each.startswith("devroute.egg-info/")} == expected


@built
def test_pipx_installs_it(tmp_path: Path) -> None:
    """By the line of README, which builds it from the checkout."""
    pipx = Path(sys.executable).with_name("pipx")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }
    subprocess.run([pipx, "install", "."], cwd=ROOT, env=environment, check=True, timeout=300)
    assert version([str(tmp_path / "bin" / "devroute")], tmp_path) == f"devroute {__version__}"


@built
def test_the_single_file_is_for_several_versions_of_python() -> None:
    """All that pip took for them; here we run one."""
    names = zipfile.ZipFile(DIST / "devroute.pyz").namelist()
    (versions,) = re.findall(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for version in versions.split():
        assert any(f"_pydantic_core.cpython-{version.replace('.', '')}-" in each for each in names), version


@built
async def test_the_single_file_runs_from_another_folder(tmp_path: Path) -> None:
    """With an empty home, by a Python that has none of its parts."""
    shutil.copy(DIST / "devroute.pyz", tmp_path)
    python = getattr(sys, "_base_executable", sys.executable)
    assert version([python, "devroute.pyz"], tmp_path) == f"devroute {__version__}"
    secret, record = new_token("alice")
    async with testbed.proxy(tmp_path, [record]) as proxy:
        environment = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": secret, "HOME": str(tmp_path)}
        output = tmp_path / "output"
        with output.open("wb") as log:
            up = await asyncio.create_subprocess_exec(
                *(python, "devroute.pyz", "up", "b=8001"),
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            await eventually(lambda: 'X-devroute: {"b": "alice"}' in output.read_text(), "alice is online")
        finally:
            up.send_signal(signal.SIGINT)
            code = await asyncio.wait_for(up.wait(), 20)
    assert code == 130, output.read_text()


def version(command: Sequence[str], folder: Path) -> str:
    """The first line of `devroute version`, with an empty home."""
    done = subprocess.run(
        [*command, "version"],
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def test_a_single_file_for_another_python_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pydantic_core").mkdir()
    for version in ("398", "399"):
        (tmp_path / "pydantic_core" / f"_pydantic_core.cpython-{version}-arm-unknown.so").touch()
    monkeypatch.setitem(sys.modules, "pydantic_core", None)  # as if it could not be imported
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PREAMBLE), {"site_packages": tmp_path})
    assert "this file is for Python 3.98, 3.99 on arm-unknown; this is cpython 3." in str(ended.value.code)


def test_the_single_file_starts_where_its_parts_load(tmp_path: Path) -> None:
    runpy.run_path(str(PREAMBLE), {"site_packages": tmp_path})
