"""A real Prometheus server of the test's own, and promtool: Debian's package `prometheus`."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
NEEDED = "needs prometheus and promtool (apt-get install prometheus)"
needs_prometheus = pytest.mark.skipif(SERVER is None, reason=NEEDED)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=NEEDED)


@contextmanager
def running_prometheus(folder: Path, port: int, target: str) -> Iterator[None]:
    """Scrapes `target` each second, and keeps exemplars; its API is at `port`."""
    assert SERVER is not None
    job = {"job_name": "devroute", "static_configs": [{"targets": [target]}]}
    configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(configuration))
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(
        (
            *(SERVER, f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"),
            *(f"--storage.tsdb.path={folder / 'data'}", "--enable-feature=exemplar-storage"),
        ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        log.close()
