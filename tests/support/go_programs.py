"""Istio's and Kubernetes' programs, Helm and Jaeger, built from Go modules once and kept in a cache.

Each folder of `go/` has a go.mod that pins what is built. Its build lies in a cache folder whose name has a
digest of go.mod and go.sum, so that a run with the same pins builds nothing.

`python -m tests.support.go_programs NAME...` builds what is missing, and prints the folders. With `--fetch`
before the names it only downloads the modules of what is missing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support import program_cache

GO = Path(__file__).parent / "go"
#: Part of the digest: change it when what `build` leaves in the folder changes.
_LAYOUT = b"1"
#: Where the Go distribution puts itself, if PATH does not have it.
_GO_FOLDER = "/usr/local/go/bin"


class Build(NamedTuple):
    """A folder of `go/`: the programs that are built of it, by the package of each, and files that modules
    carry, by module and path."""

    name: str
    packages: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()

    @property
    def programs(self) -> list[str]:
        return [package.rpartition("/")[2] for package in self.packages]


_ISTIO_PACKAGES = (
    "istio.io/istio/istioctl/cmd/istioctl",
    "istio.io/istio/pilot/cmd/pilot-agent",
    "istio.io/istio/pilot/cmd/pilot-discovery",
)
_ISTIO_FILES = (
    ("istio.io/istio", "manifests/charts/base/files/crd-all.gen.yaml"),
    ("istio.io/istio", "tools/packaging/common/envoy_bootstrap.json"),
    ("sigs.k8s.io/gateway-api", "config/crd/standard"),
)
ISTIO = Build("istio", _ISTIO_PACKAGES, _ISTIO_FILES)
KUBERNETES = Build("kubernetes", ("k8s.io/kubernetes/cmd/kube-apiserver",))
#: For `make test-helm`.
HELM = Build("helm", ("helm.sh/helm/v3/cmd/helm",))
#: For `make test-jaeger`.
JAEGER = Build("jaeger", ("github.com/jaegertracing/jaeger/cmd/all-in-one",))
BUILDS = {each.name: each for each in (ISTIO, KUBERNETES, HELM, JAEGER)}


def folder_of(build: Build) -> Path:
    """Where the programs and files of a build lie, or will lie."""
    pins = [(GO / build.name / name).read_bytes() for name in ("go.mod", "go.sum")]
    # The first builds were Istio's; another name would have all of them made again.
    return program_cache.folder(f"devroute-istio/{build.name}-", _LAYOUT, *pins)


def is_built(build: Build) -> bool:
    return folder_of(build).is_dir()


def built(build: Build) -> Path:
    """The folder of a build, which is built now if it is missing. Raises CalledProcessError if `go` fails and
    FileNotFoundError without `go`."""
    folder = folder_of(build)
    if not folder.is_dir():
        _build(build, folder)
    return folder


def fetch(build: Build) -> None:
    """Download the modules of a build that is missing. Raises as `built`."""
    if not is_built(build):
        _go(build, "list", "-deps", *build.packages)


def _build(build: Build, folder: Path) -> None:
    with program_cache.filling(folder) as unfinished:
        # One package after another: the linker of each takes more than a gigabyte.
        for package in build.packages:
            _go(build, "build", "-p", "2", "-trimpath", "-ldflags", "-s -w", "-o", f"{unfinished}/", package)
        # A module has a folder once it was needed.
        for module, path in build.files:
            _copy(Path(_go(build, "list", "-m", "-f", "{{.Dir}}", module)) / path, unfinished)


def _copy(source: Path, into: Path) -> None:
    """The module cache is read-only; the copies are not."""
    if source.is_dir():
        for file in source.glob("*.yaml"):
            _copy(file, into)
    else:
        (into / source.name).write_bytes(source.read_bytes())


def _go(build: Build, *arguments: str) -> str:
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), _GO_FOLDER]))
    if go is None:
        raise FileNotFoundError("no go in PATH: install Go 1.26 or newer")
    # With Go's default (GOGC=100) a seventh of a build's time is the compiler's own garbage collection.
    settings = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}
    environment = {**settings, **os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false"}
    done = subprocess.run(
        [go, *arguments], cwd=GO / build.name, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def main(names: list[str]) -> None:
    if names[:1] == ["--fetch"]:
        for name in names[1:]:
            fetch(BUILDS[name])
        return
    for name in names:
        print(built(BUILDS[name]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
