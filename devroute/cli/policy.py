"""`devroute policy`: explains a policy file, and tests it by a table of cases."""

from typing import Annotated, Final

import typer

from devroute.cli.exit_codes import EXIT_CODES, FAILURE, exits_with_code, print_error
from devroute.cli.help import argument, group
from devroute.cli.invocation import read_input
from devroute.cli.output import Output, print_json, usage_wants_json
from devroute.errors import ConfigInvalid

#: The policy's name in the ConfigMap that the manifests have.
IN_CONFIG_MAP: Final = "policy.yaml"

policy_app = group("Explain what a policy permits, and test it by cases.")

_File = Annotated[str, argument("Policy, or a ConfigMap with one; - is standard input", "FILE")]


@policy_app.command("check")
@exits_with_code
def check(file: _File, output: Output = None) -> int:
    """Explain what a policy permits, or show its first mistake.

    \b
    Example: devroute policy check policy.yaml
    """
    from devroute.policy import explain
    from devroute.policy.policy import Policy

    as_json = usage_wants_json(output)
    try:
        policy = Policy.parse(*_policy(file))
    except ConfigInvalid as error:
        if as_json:
            print_json({"valid": False, "error": error.as_dict()})
        else:
            print_error(error)
        return EXIT_CODES[ConfigInvalid]
    words, remarks = explain.explain(policy), explain.remarks(policy)
    if as_json:
        print_json({"valid": True, "explanation": words, "remarks": remarks})
    else:
        typer.echo("\n".join(words))
        for remark in remarks:
            typer.echo(f"devroute: {remark}", err=True)
    return 0


@policy_app.command("test")
@exits_with_code
def run_cases(
    file: _File,
    cases: Annotated[str, argument("Table of cases in YAML; - is standard input", "CASES")],
    output: Output = None,
) -> int:
    """Test a policy by a table of cases; the exit code is 1 if one fails.

    \b
    Example: devroute policy test policy.yaml cases.yaml
    """
    from devroute.policy import cases as table
    from devroute.policy.policy import Policy

    as_json = usage_wants_json(output)
    if file == cases == "-":
        raise typer.BadParameter("only one of the two can be standard input", param_hint="CASES")
    policy = Policy.parse(*_policy(file))
    outcomes = table.run(policy, *read_input(cases))
    if as_json:
        print_json(table.as_json(outcomes))
    else:
        typer.echo("\n".join(table.as_text(outcomes)))
    return FAILURE if any(each.problem is not None for each in outcomes) else 0


def _policy(file: str) -> tuple[str, str]:
    """The policy's text and its name for messages; of a ConfigMap, the file in it."""
    from devroute.policy.file import load

    text, source = read_input(file)
    document, _ = load(text, source)
    if not isinstance(document, dict) or document.get("kind") != "ConfigMap":
        return text, source
    data = document.get("data")
    inner = data.get(IN_CONFIG_MAP) if isinstance(data, dict) else None
    if not isinstance(inner, str):
        raise ConfigInvalid(f"{source}: the ConfigMap has no data.{IN_CONFIG_MAP}")
    return inner, f"{source}, {IN_CONFIG_MAP}"
