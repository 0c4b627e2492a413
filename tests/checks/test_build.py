"""The lists that the build keeps by hand name what exists: packages, compiled modules, and their tests."""

import ast
import re
import tomllib

from tests.support.paths import ROOT

PACKAGE = ROOT / "devroute"


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    elsewhere = set(tools["package-dir"])
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in PACKAGE.rglob("__init__.py")}
    assert set(tools["packages"]) == found | elsewhere
    assert all((ROOT / folder).is_dir() for folder in tools["package-dir"].values())


def test_every_compiled_module_exists() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (listed,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and _names(node) == ["COMPILED"]
    )
    modules = ast.literal_eval(listed)
    assert len(modules) == len(set(modules)) > 20
    assert [name for name in modules if not (PACKAGE / f"{name.replace('.', '/')}.py").exists()] == []


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def test_every_test_that_runs_compiled_exists() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^COMPILED_TESTS := (.*)$", makefile, re.MULTILINE)
    assert [path for path in listed.split() if not (ROOT / path).exists()] == []
