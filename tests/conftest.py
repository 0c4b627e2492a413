"""Settings of all tests."""

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devroute.platforms import freeze_heap
from tests.support import fork_server
from tests.support.examples import register_profiles
from tests.support.secret_watch import pytest_configure

if TYPE_CHECKING:
    from tests.support.remote_host import RemoteHost

__all__ = ["pytest_configure"]

register_profiles()
fork_server.install()
# A shell has its background jobs ignore Ctrl-C, and their children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing is garbage until all tests are collected, and then the collector leaves them alone: a pass over
# thousands of them would stop a test's loop for a second, and end the requests to its laptop.
gc.disable()
# Tests make many objects, and little garbage in cycles: a tenth of their time went into looking for it.
gc.set_threshold(10_000, 20)


def pytest_collection_finish() -> None:
    freeze_heap()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--envoy", type=Path, help="the Envoy to test; default: the one that pip installed")
    parser.addoption("--firefox", action="store_true", help="test the inspector's page in Firefox")


@pytest.fixture
def unused_tcp_port() -> int:
    """Instead of the plugin's, which is one that the kernel may give to another test's connection before this
    test's program listens on it."""
    from tests.support.ports import free_port  # takes long to import, and few tests need it

    return free_port()


@pytest.fixture(name="remote_host")
def made_remote_host() -> Iterator["RemoteHost"]:
    """Another host, as a network namespace."""
    from tests.support.remote_host import remote_host  # few tests need it

    with remote_host() as host:
        yield host


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("browser") is None:
        return (yield)
    from tests.support import host_network  # few tests need it

    with host_network.stays():
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything is installed, so a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
