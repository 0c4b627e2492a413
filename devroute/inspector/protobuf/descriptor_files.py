"""Descriptors in files: descriptor sets (`protoc --descriptor_set_out`, `buf build`), and .proto files, which
protoc or grpcio-tools compiles. Needs the library `protobuf`.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from devroute.errors import ConfigInvalid
from devroute.inspector.protobuf.schema import Schema
from devroute.inspector.protobuf.schema_files import SchemaFiles
from devroute.quoting import quote

#: Bytes of a descriptor set.
MAX_BYTES: Final = 32 * 1024 * 1024
#: Seconds for the compiler.
COMPILE_SECONDS: Final = 30.0
#: Lines of a compiler's errors that are shown.
_MAX_LINES: Final = 5


def load(files: SchemaFiles) -> Schema:
    """The schema of all these files. Blocks while they are compiled. Raises ConfigInvalid."""
    descriptors: list[bytes] = []
    for path in files.descriptor_set:
        descriptors += _read(path)
    if files.proto:
        descriptors += _compiled(files.proto, files.proto_path)
    schema = Schema(descriptors)
    if schema.problems:
        name, problem = next(iter(schema.problems.items()))
        missing = f", which imports {', '.join(schema.missing[:3])}" if schema.missing else ""
        raise ConfigInvalid(
            f"descriptor_set: {quote(name)} cannot be used: {problem}",
            hint=f"protoc --include_imports writes a set with all imports{missing}",
        )
    return schema


def _read(path: Path) -> list[bytes]:
    try:
        if not path.is_file():
            raise ConfigInvalid(f"descriptor_set: there is no file {quote(str(path))}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(f"descriptor_set: {quote(str(path))}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigInvalid(f"descriptor_set: {quote(str(path))} has more than {MAX_BYTES >> 20} MiB")
    found = FileDescriptorSet()
    try:
        found.ParseFromString(data)
    except DecodeError:
        found.Clear()
    if not found.file or not all(each.name for each in found.file):
        raise ConfigInvalid(
            f"descriptor_set: {quote(str(path))} is not a descriptor set",
            hint="make one: protoc --include_imports --descriptor_set_out=FILE.binpb FILE.proto, or"
            " buf build -o FILE.binpb; .proto files go to --proto",
        )
    return [each.SerializeToString() for each in found.file]


def _compiled(protos: Sequence[Path], folders: Sequence[Path]) -> list[bytes]:
    for path in protos:
        if not path.is_file():
            raise ConfigInvalid(f"proto: there is no file {quote(str(path))}")
    # Absolute paths: none of them can be taken for an option.
    paths = [path.resolve() for path in protos]
    roots = [folder.resolve() for folder in folders] or _roots(paths)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "set.binpb"
        command = [
            *find_compiler(),
            *(f"--proto_path={root}" for root in roots),
            "--include_imports",
            f"--descriptor_set_out={made}",
            *map(str, paths),
        ]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigInvalid(f"proto: {quote(command[0])} did not run: {error}") from None
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if line.strip()][:_MAX_LINES]
            raise ConfigInvalid(
                f"proto: {'; '.join(lines) or 'the compiler failed'}",
                hint="--proto-path names the folder below which imports are, as protoc's",
            )
        return _read(made)


def _roots(paths: Sequence[Path]) -> list[Path]:
    """The working directory, and the folders of files that are not below it."""
    here = Path.cwd()
    return list(dict.fromkeys([path.parent for path in paths] + [here]))


def find_compiler() -> list[str]:
    """Raises ConfigInvalid where there is none. A program in the working directory does not count (Windows
    looks there first): it may have come with the repository."""
    found = shutil.which("protoc")
    if found is not None and Path(found).resolve().parent != Path.cwd().resolve():
        return [found]
    if find_spec("grpc_tools") is not None:
        # -P: no module of the working directory
        return [sys.executable, "-P", "-m", "grpc_tools.protoc"]
    raise ConfigInvalid(
        "proto: .proto files need a compiler, and neither protoc nor grpcio-tools is installed",
        hint="install protoc, or pip install grpcio-tools, or use a descriptor set (--descriptor-set), or"
        " turn on the app's server reflection",
    )
