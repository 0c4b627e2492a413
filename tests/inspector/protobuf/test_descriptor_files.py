"""Schemas from files: descriptor sets, and .proto files that a real compiler compiles."""

import os
import sys
from pathlib import Path

import pytest

from devroute.errors import ConfigInvalid
from devroute.inspector.protobuf import descriptor_files
from devroute.inspector.protobuf.catalogue import Catalogue
from devroute.inspector.protobuf.descriptor_files import load
from devroute.inspector.protobuf.schema_files import SchemaFiles
from tests.support import grpc_shop

PLACE = "/shop.Orders/Place"


@pytest.fixture
def descriptor_set(tmp_path: Path) -> Path:
    made = tmp_path / "shop.binpb"
    made.write_bytes(grpc_shop.descriptor_set())
    return made


def test_a_descriptor_set_and_proto_files_give_the_same_schema(
    descriptor_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(SchemaFiles(descriptor_set=(descriptor_set,))).method(PLACE) is not None
    # A package of the working directory is not run as the compiler.
    for name in ("grpc_tools", "google"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "raise SystemExit('ran a file of the working directory')"
        )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.proto").write_text(grpc_shop.PROTO.read_text())
    assert load(SchemaFiles(proto=(Path("shop/shop.proto"),))).method(PLACE) is not None


def test_a_file_that_is_wrong_is_named(descriptor_set: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.proto"
    broken.write_text('syntax = "proto3"; message M { nope x = 1; }')
    text = tmp_path / "text.binpb"
    text.write_text("syntax")
    alone = tmp_path / "alone.binpb"
    shop = grpc_shop.FileDescriptorSet.FromString(descriptor_set.read_bytes())
    only = next(each for each in shop.file if each.name == "shop.proto")
    only.dependency.append("shop/parts.proto")
    alone.write_bytes(grpc_shop.FileDescriptorSet(file=[only]).SerializeToString())
    for files, problem in (
        (SchemaFiles(proto=(broken,)), 'broken.proto:1:32: "nope" is not defined'),
        (SchemaFiles(proto=(tmp_path / "no.proto",)), "there is no file"),
        (SchemaFiles(descriptor_set=(tmp_path,)), "there is no file"),
        (SchemaFiles(descriptor_set=(text,)), "is not a descriptor set"),
        (SchemaFiles(descriptor_set=(grpc_shop.PROTO,)), "is not a descriptor set"),
        (SchemaFiles(descriptor_set=(alone,)), "'shop.proto' cannot be used: .*shop/parts.proto"),
    ):
        with pytest.raises(ConfigInvalid, match=problem):
            load(files)


def test_without_a_compiler_the_error_says_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "protoc"
    compiler.write_text("#!/bin/sh\necho ran\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert descriptor_files.find_compiler() == [str(compiler)]
    monkeypatch.chdir(tmp_path)  # a compiler that came with a repository
    assert descriptor_files.find_compiler()[0] == sys.executable
    monkeypatch.setattr(descriptor_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigInvalid, match="neither protoc nor grpcio-tools") as raised:
        load(SchemaFiles(proto=(grpc_shop.PROTO,)))
    assert "--descriptor-set" in raised.value.hint


@pytest.mark.asyncio
async def test_a_file_that_changes_is_read_again(descriptor_set: Path) -> None:
    catalogue = Catalogue((), SchemaFiles(descriptor_set=(descriptor_set,)))
    await catalogue.load()
    found = await catalogue.find("b", PLACE)
    assert (found.source, found.problem) == ("shop.binpb", "")
    change(descriptor_set, b"broken", 1)
    assert (await catalogue.find("b", PLACE)).method is not None  # what was read before counts
    missing = await catalogue.find("b", "/shop.Orders/No")
    assert "b is not served here" in missing.problem
    change(descriptor_set, grpc_shop.descriptor_set(), 2)
    assert (await catalogue.find("b", PLACE)).problem == ""


def change(file: Path, data: bytes, at: float) -> None:
    file.write_bytes(data)
    os.utime(file, (at, at))
