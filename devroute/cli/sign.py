"""`devroute contract check`, `sign` and `sign-key`: explains contracts, signs them, makes keys."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devroute.cli.durations import seconds_of
from devroute.cli.exit_codes import FAILURE, exits_with_code, print_error
from devroute.cli.help import argument, group, option
from devroute.cli.invocation import read_text, replace_file, require_text
from devroute.cli.output import Output, print_json, wants_json
from devroute.contract import grammar
from devroute.contract.explain import explain
from devroute.contract.grammar import Contract, Signature
from devroute.errors import ConfigInvalid, ContractInvalid, DevrouteError
from devroute.timestamps import rfc3339

if TYPE_CHECKING:
    from devroute.contract.signer import SigningKey

sign_key_app = group("Create keys that sign contracts.")

#: Default files of a private key, and of the public keys that a proxy trusts.
KEY_FILE, KEYS_FILE = Path("sign-key.json"), Path("contract-keys.json")


Text = Annotated[str, argument("Value of the header X-devroute", "CONTRACT")]
Ttl = Annotated[str, option("Lifetime of the signature, such as 30m, 2h or 1d", "TIME")]
KeyFile = Annotated[Path, option("Private key, as JWK or PEM", "FILE")]


@exits_with_code
def check(
    text: Text,
    keys: Annotated[Path | None, option("JWKS that verifies a signed contract", "FILE")] = None,
    output: Output = None,
) -> int:
    """Explain what a contract means, or what is wrong with it.

    \b
    Example: devroute contract check '{"b": "alice"}'
    """
    as_json = wants_json(output)
    signed = grammar.is_signed(text)
    try:
        parsed = _read_signed(text, keys) if signed else grammar.parse(text)
    except ConfigInvalid:
        raise
    except DevrouteError as error:
        if error.hint == ContractInvalid.default_hint:
            error.hint = ""  # it suggests this very command
        if as_json:
            corrected = error.corrected if isinstance(error, ContractInvalid) else None
            print_json({"valid": False, "error": error.as_dict(), "corrected": corrected})
        else:
            print_error(error)
        return FAILURE
    if as_json:
        entries = {
            key: asdict(entry) | {"target": str(entry.target)} for key, entry in parsed.entries.items()
        }
        document = {"valid": True, "explanation": explain(parsed), "entries": entries}
        if parsed.signature is not None:
            document["signature"] = _signature(parsed.signature) | {"verified": keys is not None}
        print_json(document)
    else:
        typer.echo("\n".join(explain(parsed)))
        if parsed.signature is not None:
            typer.echo(_provenance(parsed.signature, keys))
    return 0


@exits_with_code
def sign(
    text: Text,
    ttl: Ttl = "1h",
    key: KeyFile = KEY_FILE,
    subject: Annotated[str | None, option("Name of the signer, if the key has none", "NAME")] = None,
    output: Output = None,
) -> None:
    """Sign a contract, and print the value to send as X-devroute.

    \b
    Example: devroute sign '{"b": "alice"}' --ttl 2h --key sign-key.json
    """
    from devroute.contract.signer import sign as signed_by
    from devroute.contract.verifier import MAX_TTL_S

    as_json = wants_json(output)
    seconds = seconds_of(ttl, "--ttl")
    if grammar.is_signed(text):
        raise typer.BadParameter("this contract is signed already", param_hint="CONTRACT")
    parsed = grammar.parse(text, grammar.WIDEST_LIMITS)  # the proxy judges how many it takes
    private = _private(key)
    name = _signer(private, subject, key)
    now = time.time()
    token = signed_by(parsed, private, name, now, seconds)
    made = Signature(name, private.id, int(now), int(now) + seconds)
    if as_json:
        details = {"algorithm": private.algorithm, "contract": grammar.as_document(parsed)}
        print_json({"token": token} | _signature(made) | details)
    else:
        typer.echo(token)
        typer.echo(f"signed by {name}, until {rfc3339(made.expires)}; send it as X-devroute", err=True)
        if seconds > MAX_TTL_S:
            typer.echo(
                "that is more than a day: only a proxy with a larger contract_max_ttl accepts it", err=True
            )


def _signer(private: "SigningKey", subject: str | None, file: Path) -> str:
    if private.subject is not None and subject not in (None, private.subject):
        raise ConfigInvalid(f"{file}: this key is for {private.subject} only, and cannot sign as {subject}")
    if not (name := private.subject or subject):
        raise typer.BadParameter(f"{file} names no signer: write --subject NAME", param_hint="--subject")
    return name


@sign_key_app.command("new")
@exits_with_code
def new(
    name: Annotated[str, argument("Name of the signer, as logs show it", "NAME")],
    key: Annotated[Path, option("File for the private key, a JWK", "FILE")] = KEY_FILE,
    keys: Annotated[Path, option("JWKS of the proxy, to which the public key is added", "FILE")] = KEYS_FILE,
) -> None:
    """Create a key, and add its public half to those that the proxy trusts.

    \b
    Example: devroute sign-key new alice --key sign-key.json --keys contract-keys.json
    """
    from devroute.contract.keys import Keys
    from devroute.contract.signer import SigningKey

    if read_text(key) is not None:
        raise ConfigInvalid(f"{key} exists already", hint="name another file: --key FILE")
    private = SigningKey.new(name)
    known = read_text(keys)
    if known is not None:
        Keys.parse(known, str(keys))
    document = {"keys": []} if known is None else json.loads(known)
    document["keys"].append(private.as_public_jwk())
    joined = _json(document)
    Keys.parse(joined, str(keys))
    replace_file(key, _json(private.as_jwk()))
    replace_file(keys, joined)
    typer.echo(f"{key}: the private key of {name}; anyone who has it can sign as {name}")
    count = len(document["keys"])
    held = f"{count} public key{'s' if count > 1 else ''}"
    typer.echo(f"{keys}: {held}, for: devroute proxy --contract-keys {keys}")


@sign_key_app.command("public")
@exits_with_code
def public(
    key: Annotated[Path, argument("Private key, as JWK or PEM", "KEY")] = KEY_FILE,
    subject: Annotated[str | None, option("Name of the only signer of this key", "NAME")] = None,
) -> None:
    """Print the public half of a key as the JWKS that a proxy reads.

    \b
    Example: devroute sign-key public key.pem --subject ci > contract-keys.json
    """
    jwk = _private(key).as_public_jwk()
    if subject is not None:
        jwk["sub"] = subject
    text = _json({"keys": [jwk]})
    from devroute.contract.keys import Keys

    Keys.parse(text, str(key))
    typer.echo(text, nl=False)


# --- reading ------------------------------------------------------------------------------------------------


def _read_signed(text: str, keys: Path | None) -> Contract:
    """A signed contract, verified if there are keys. Raises ConfigInvalid and the errors of
    contract/verifier.py."""
    from devroute.contract.keys import Keys
    from devroute.contract.validity import check_time
    from devroute.contract.verifier import read_unverified, verify

    if keys is None:
        return read_unverified(text)
    found = verify(text, Keys.parse(require_text(keys), str(keys)))
    assert found.signature is not None
    check_time(found.signature, time.time())
    return found


def _private(file: Path) -> "SigningKey":
    from devroute.contract.signer import SigningKey

    text = require_text(file, "make a key: devroute sign-key new NAME")
    return SigningKey.parse(text, str(file))


# --- showing ------------------------------------------------------------------------------------------------


def _signature(signature: Signature) -> dict[str, object]:
    return {
        "subject": signature.subject,
        "key": signature.key,
        "valid_from": rfc3339(signature.starts),
        "expires": rfc3339(signature.expires),
    }


def _provenance(signature: Signature, keys: Path | None) -> str:
    over = " (expired)" if keys is None and signature.expires < time.time() else ""
    who = f"signed by {signature.subject}, until {rfc3339(signature.expires)}{over}"
    if keys is None:
        return f"{who}, but not verified here; --keys FILE verifies it"
    return f"{who}; verified with {keys}"


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"
