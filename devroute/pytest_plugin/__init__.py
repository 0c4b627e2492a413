"""`pytest --devroute '{"b": "alice"}' --devroute-host a.qa.example`: the tests' requests have this contract.

pytest loads this module in every project of an environment where devroute is installed, so it does nothing,
and imports nothing, unless a contract is given. docs/ci.md is its page.
"""

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from devroute.pytest_plugin.sender import Sender

#: As `devroute curl` reads it; and hosts, separated by commas.
CONTRACT_VARIABLE: Final = "DEVROUTE_CONTRACT"
HOSTS_VARIABLE: Final = "DEVROUTE_HOSTS"
#: What a worker of pytest-xdist sends to the process that reports.
_OUTPUT: Final = "devroute"

_KEY: "Final[pytest.StashKey[Sender]]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("devroute", "requests with a contract (devroute)")
    group.addoption(
        "--devroute",
        metavar="CONTRACT",
        help='Contract of the tests\' requests: {"b": "alice"}, @NAME of a saved one, or a signed one'
        f" [{CONTRACT_VARIABLE}]",
    )
    group.addoption(
        "--devroute-host",
        metavar="HOST[:PORT]|URL",
        action="append",
        default=[],
        help=f"Host whose requests get the contract, and no other; repeatable [{HOSTS_VARIABLE}]",
    )
    parser.addini("devroute_hosts", "Hosts whose requests get the contract of --devroute", type="args")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption("--devroute")
    hosts = [*config.getoption("--devroute-host"), *config.getini("devroute_hosts")]
    hosts += os.environ.get(HOSTS_VARIABLE, "").replace(",", " ").split()
    contract = option or os.environ.get(CONTRACT_VARIABLE)
    if not contract or (option is None and not hosts):  # the variable is for `devroute curl`, too
        return
    from devroute.pytest_plugin.sender import create

    sender = create(contract, hosts)
    config.stash[_KEY] = sender
    config.add_cleanup(sender.close)


def pytest_report_header(config: pytest.Config) -> list[str]:
    sender = config.stash.get(_KEY, None)
    return [] if sender is None else [f"devroute: {sender}"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if (sender := item.config.stash.get(_KEY, None)) is not None:
        sender.next_test()


def pytest_sessionfinish(session: pytest.Session) -> None:
    sender, output = session.config.stash.get(_KEY, None), getattr(session.config, "workeroutput", None)
    if sender is not None and output is not None:
        output[_OUTPUT] = sender.counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    sender = node.config.stash.get(_KEY, None)
    if sender is not None:
        sender.add(*getattr(node, "workeroutput", {}).get(_OUTPUT, ([], [])))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    sender = config.stash.get(_KEY, None)
    if sender is not None:
        terminalreporter.section("devroute")
        for line in [*sender.report(), *sender.traced()]:
            terminalreporter.write_line(line)
