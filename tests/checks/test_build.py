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
    modules = _compiled()
    assert len(modules) == len(set(modules)) > 20
    assert [name for name in modules if not (PACKAGE / f"{name.replace('.', '/')}.py").exists()] == []


def test_no_class_that_is_not_compiled_inherits_from_one_that_is() -> None:
    """It would not even be defined: mypyc refuses that when the module is imported."""
    compiled = {f"devroute.{name}" for name in _compiled()}
    inheriting = []
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if module in compiled:
            continue
        text = file.read_text()
        if not re.search(r"^class \w+\(", text, re.MULTILINE) or not any(name in text for name in compiled):
            continue
        body = ast.parse(text).body
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in body
            if isinstance(node, ast.ImportFrom) and node.module in compiled
            for alias in node.names
        }
        inheriting += [
            (module, each.name, *imported[base.id])
            for each in body
            if isinstance(each, ast.ClassDef)
            for base in each.bases
            if isinstance(base, ast.Name) and base.id in imported
        ]
    assert inheriting == []


def _compiled() -> list[str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (listed,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and _names(node) == ["COMPILED"]
    )
    modules: list[str] = ast.literal_eval(listed)
    return modules


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def test_every_test_that_runs_compiled_exists() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^COMPILED_TESTS := (.*)$", makefile, re.MULTILINE)
    assert [path for path in listed.split() if not (ROOT / path).exists()] == []
