"""How a command ends: an exit code, on which scripts depend, and an error as one line and a hint."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final, ParamSpec

import typer

from devroute.errors import (
    AdminRequired,
    AppNotListening,
    CallerDenied,
    ConfigInvalid,
    DevrouteError,
    HarInvalid,
    KeysUnavailable,
    LoginFailed,
    NameNotOwned,
    NameTaken,
    NotFound,
    RegistrationDenied,
    RegistrationEnded,
    ServerUnreachable,
    ShadowDenied,
    SubjectBlocked,
    SubjectInvalid,
    TargetDenied,
    TokenCommandFailed,
    TokenInvalid,
)
from devroute.platforms import INTERRUPTED
from devroute.quoting import visible

FAILURE: Final = 1
#: `devroute curl --expect`: another one answered. No exit code of curl.
NOT_AS_EXPECTED: Final = 110
EXIT_CODES: Final[Mapping[type[DevrouteError], int]] = {
    ConfigInvalid: 20,
    HarInvalid: 20,
    TokenInvalid: 30,
    SubjectInvalid: 30,
    TokenCommandFailed: 30,
    LoginFailed: 30,
    NameNotOwned: 30,
    NameTaken: 30,
    RegistrationDenied: 30,
    TargetDenied: 30,
    CallerDenied: 30,
    ShadowDenied: 30,
    AdminRequired: 30,
    SubjectBlocked: 30,
    RegistrationEnded: 30,
    ServerUnreachable: 40,
    KeysUnavailable: 40,
    NotFound: 50,
    AppNotListening: 60,
}

P = ParamSpec("P")


def exits_with_code(command: Callable[P, int | None]) -> Callable[P, None]:
    """Prints the errors of a command, and turns them into its exit code."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except DevrouteError as error:
            print_error(error)
            code = exit_code_for(error)
        except (KeyboardInterrupt, typer.Abort):  # Abort: at a prompt
            code = INTERRUPTED
        raise typer.Exit(code or 0)

    return wrapper


def exit_code_for(error: DevrouteError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILURE)


def print_error(error: DevrouteError) -> None:
    """What was wrong, and what to do about it, on standard error. A server may have written it."""
    typer.echo(f"devroute: {visible(error.message)}", err=True)
    if error.hint:
        typer.echo("  hint: " + "\n        ".join(map(visible, error.hint.split("\n"))), err=True)
