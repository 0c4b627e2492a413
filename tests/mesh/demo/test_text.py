"""What the demo prints fits into 80 columns, and is coloured where there are colours."""

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from devroute.mesh.demo.mesh import Mesh
from devroute.mesh.demo.scenes import Reply, Scene
from devroute.mesh.demo.text import ended, heading, next_steps, row, title

GOOD = Reply(("mesh", "alice", "mesh"), "laptop", "b answered by alice (tunnel)")
FALLBACK = Reply(("mesh", "mesh", "mesh"), "fallback", "word " * 40)


@pytest.mark.parametrize("service", ["b", "orders", "x" * 63])
def test_each_line_fits_into_80_columns(service: str) -> None:
    services = ("a", service, "c")
    contract = f'{{"{service}": "127.0.0.1:65535"}}'
    seen = [GOOD, FALLBACK, Reply((), "error", "x " * 99)]
    rows = [row(Scene(contract, each, GOOD), services) for each in seen]
    texts = [title(services), heading(services), *rows]
    if len(service) < 20:  # lines to copy are never cut
        url = "http://127.0.0.1:65535"
        unused: Any = None
        mesh = Mesh(unused, service, unused, unused, unused, url, url, "dvr_" + "0" * 32)
        texts.append(next_steps(mesh, "devroute", url))
    for line in "\n".join(text.plain for text in texts).splitlines():
        assert cell_len(line) <= 80, line


def test_the_end_says_how_to_go_on_unless_that_was_done() -> None:
    assert ended(7.2, "devroute").endswith(
        " 7 s, and all processes have ended.\n  Next, with your own code: devroute demo --keep"
    )
    assert ended(7.2, None).endswith("ended.")


def test_columns_stand_below_their_names() -> None:
    services = ("a", "orders", "c")
    names, values = heading(services).plain, row(Scene("none", GOOD, GOOD), services).plain
    assert [names.index(f"  {each}  ") for each in services] == [
        values.index("  mesh "),
        values.index("  alice "),
        values.rindex("  mesh "),
    ]


def test_an_unexpected_reply_is_marked_and_has_its_reason() -> None:
    services = ("a", "b", "c")
    assert row(Scene("{}", GOOD, GOOD), services).plain.startswith("  ✓ {}")
    wrong = row(Scene("{}", FALLBACK, GOOD), services).plain
    assert wrong.startswith("  ✗ {}")
    assert "\n      word word" in wrong


@pytest.mark.parametrize(
    ("terminal", "environment", "colours"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)],
)
def test_only_a_terminal_gets_colours_unless_they_are_switched_off(
    terminal: bool, environment: dict[str, str], colours: bool
) -> None:
    out = io.StringIO()
    known = {"TERM": "xterm-256color", **environment}
    console = Console(file=out, force_terminal=terminal, highlight=False, soft_wrap=True, _environ=known)
    console.print(row(Scene("none", GOOD, GOOD), ("a", "b", "c")))
    assert ("\x1b[32m" in out.getvalue()) is colours
