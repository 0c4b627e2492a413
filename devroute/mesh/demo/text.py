"""What the demo prints, as styled text: why, the table of its requests, and how to go on. Pure."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from devroute.headers import CONTRACT
from devroute.mesh.demo.mesh import ALICE, BOB, LAST, MESH, NAMESPACE, PORT, YOU, Mesh
from devroute.mesh.demo.scenes import Scene

#: Columns of the page, and of the table's cells.
COLUMNS: Final = 80
CONTRACT_COLUMNS: Final = 30
SERVICE_COLUMNS: Final = 10

#: Why anyone should care.
WHY: Final = (
    "Your laptop answers for one service of a shared mesh, for your requests alone:",
    "run a change seconds after typing it, between real services, without a deploy.",
)


def title(services: Sequence[str]) -> Text:
    chain = " calls ".join(cut(each, SERVICE_COLUMNS) for each in services)
    names = f"{ALICE.title()} and {BOB.title()} each run their own {cut(services[1], SERVICE_COLUMNS)}."
    text = Text("\n")
    for line in WHY:
        text.append(f"  {line}\n", "bold")
    text.append(f"\n  Here, {chain}, each behind an Envoy with devroute's filter.\n  {names}\n")
    return text


def heading(services: Sequence[str]) -> Text:
    return _line("", CONTRACT, [(each, "") for each in services], ("result", ""), "dim")


def row(scene: Scene, services: Sequence[str]) -> Text:
    """A line of the table; the reason follows where it is no laptop that answered."""
    who = [*scene.seen.hops, "", "", ""][: len(services)]
    good = scene.good
    colour = {"laptop": "green", "error": "red", "fallback": "yellow"}.get(scene.seen.result, "")
    text = _line(
        "\N{CHECK MARK}" if good else "\N{BALLOT X}",
        scene.contract,
        [(each, "dim" if each == MESH else "bold cyan") for each in who],
        (scene.seen.result, colour),
        "",
        "green" if good else "bold red",
        services,
    )
    if scene.seen.reason and (not good or scene.seen.result != "laptop"):
        for line in textwrap.wrap(scene.seen.reason, COLUMNS - 8):
            text.append(f"\n      {line}", "dim")
    return text


def _line(
    mark: str,
    contract: str,
    who: Sequence[tuple[str, str]],
    result: tuple[str, str],
    style: str,
    mark_style: str = "",
    services: Sequence[str] = (),
) -> Text:
    names = services or [text for text, _ in who]
    text = Text(style=style)
    text.append("  " + (mark or " "), mark_style)
    text.append(" " + set_cell_size(cut(contract, CONTRACT_COLUMNS), CONTRACT_COLUMNS))
    for name, (value, colour) in zip(names, who, strict=True):
        columns = max(5, min(cell_len(name), SERVICE_COLUMNS))
        text.append("  ")
        text.append(set_cell_size(cut(value, columns), columns), colour)
    text.append("  ")
    text.append(*result)
    text.rstrip()
    return text


def cut(text: str, columns: int) -> str:
    return text if cell_len(text) <= columns else set_cell_size(text, columns - 1) + "…"


def next_steps(mesh: Mesh, program: str, page: str) -> Text:
    """How to bring in one's own code, and what else to try. Lines to copy are not folded."""
    service = mesh.service
    contracts = [
        ({service: YOU}, "your code"),
        ({service: BOB}, "bob's"),
        ({service: ALICE}, "alice is offline: the mesh's own"),
        ({service: "8.8.8.8:80"}, "no address that the policy does not list"),
    ]
    text = Text("\n")
    text.append("  Now your own code. In a second terminal, with any app on this machine:\n\n", "bold")
    for line in (f"export DEVROUTE_SERVER={mesh.server}", f"export DEVROUTE_TOKEN={mesh.token}"):
        text.append(f"    {line}\n", "cyan")
    text.append(f"    {up(program, service)}\n\n", "cyan")
    text.append(
        f"  Your app may call {LAST} at the {LAST.upper()}_{NAMESPACE.upper()}_URL that this prints.\n", "dim"
    )
    text.append("\n  In a third one, after the same exports, see who answered at every hop:\n\n", "bold")
    text.append(f"    {program} curl {mesh.url}/\n\n", "cyan")
    text.append("  Other clients need no exports. Every request's way is shown live at\n  ")
    text.append(f"{page}/\n\n", "bold cyan")
    for contract, comment in contracts:
        text.append(f"    # {comment}\n", "dim")
        text.append(f"    {curl(mesh.url, contract)}\n", "cyan")
    text.append("    # no contract: everyone else's requests\n", "dim")
    text.append(f"    curl -i {mesh.url}/\n", "cyan")
    text.append("\n  The mesh runs until Ctrl-C.")
    return text


def ended(seconds: float, program: str | None) -> str:
    """The last lines. `program`: what to type for devroute, unless the user's own code was in this mesh."""
    onward = f"\n  Next, with your own code: {program} demo --keep" if program else ""
    return f"\n  {seconds:.0f} s, and all processes have ended.{onward}"


def up(program: str, service: str) -> str:
    return f"{program} up {service}=YOURPORT --reach {LAST}.{NAMESPACE}:{PORT}"


def curl(url: str, contract: Mapping[str, str]) -> str:
    return f"curl -i {url}/ -H '{CONTRACT}: {json.dumps(contract)}'"
