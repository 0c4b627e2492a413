"""The commands of `devroute`, and the modules that make them."""

from collections.abc import Mapping
from typing import Final

from devroute.cli.help import LazyCommand

#: Unknown options are curl's, and stay in their order.
_FOR_CURL: Final = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
}

_TRACE: Final = {
    "context_settings": {"allow_extra_args": True, "allow_interspersed_args": False},
    "options_metavar": "[OPTIONS] -- COMMAND...",
    "epilog": "COMMAND may be curl, wget, http, https or xh, with its arguments.",
}

#: The main list of --help: by user, in the order of first use.
SECTIONS: Final[Mapping[str, Mapping[str, LazyCommand]]] = {
    "On a laptop": {
        "init": LazyCommand(
            "Set up this laptop: ask for server and token, check them, and save them", "init:init"
        ),
        "up": LazyCommand("Receive requests for services on this laptop", "up:up"),
        "down": LazyCommand(
            "End devroute up on this machine, and wait until open requests and the app have ended",
            "down:down",
        ),
        "reach": LazyCommand(
            "Call services of the mesh from this laptop, by one local port that is a SOCKS and an HTTP proxy",
            "reach:reach",
        ),
        "login": LazyCommand("Log in by single sign-on, for a token that renews itself", "login:login"),
        "logout": LazyCommand("Forget the login of this laptop, and end it at the issuer", "login:logout"),
        "curl": LazyCommand(
            "Send a request by curl with a contract for your services, and report who answered at every hop",
            "curl:curl",
            {"context_settings": _FOR_CURL, "options_metavar": "[OPTIONS] URL [CURL OPTIONS]"},
        ),
        "ls": LazyCommand("List the laptops that are online", "query:ls"),
        "dashboard": LazyCommand(
            "Open your team's page in a browser: who is on what, live", "dashboard:dashboard"
        ),
        "status": LazyCommand(
            "Show what runs on this laptop, your identity at the server, and its rules", "query:status"
        ),
        "trace": LazyCommand(
            "Send one request, and show which services saw its contract and who answered",
            "query:trace_",
            _TRACE,
        ),
        "expect": LazyCommand(
            "Wait until a laptop or version answers at the services named, or report who did",
            "expect:expect",
        ),
        "doctor": LazyCommand(
            "Check everything that this laptop's first request needs, and print what to do about each fault",
            "doctor:doctor",
        ),
        "env": LazyCommand(
            "Print the environment that a workload's container has in the mesh, or run a command with it",
            "env:env",
            {"options_metavar": "[OPTIONS] [-- COMMAND...]"},
        ),
        "replay": LazyCommand(
            "Send recorded requests to the local app, and compare its responses with the recorded ones",
            "replay:replay",
        ),
        "mcp": LazyCommand(
            "Let a coding agent read what reached this laptop, by the Model Context Protocol (stdio)",
            "mcp:mcp",
        ),
        "contract": LazyCommand("Explain contracts, and save them under a name", "contract:contract_app"),
        "demo": LazyCommand(
            "Run a small mesh with real Envoy on this machine, and send requests through it", "demo:demo"
        ),
        "completion": LazyCommand(
            "Print the script that completes devroute's commands and options in a shell",
            "completion:completion",
        ),
        "version": LazyCommand(
            "Print the version, and that of the server if it can be reached", "query:version"
        ),
    },
    "For the platform": {
        "proxy": LazyCommand("Run the proxy in the mesh", "proxy:proxy"),
        "admin": LazyCommand(
            "End registrations, and block people for a time; for administrators", "dashboard:admin_app"
        ),
        "policy": LazyCommand("Explain what a policy permits, and test it by cases", "policy:policy_app"),
        "token": LazyCommand("Create, list and revoke tokens for laptops", "token:token_app"),
        "sign": LazyCommand("Sign a contract, and print the value to send as X-devroute", "sign:sign"),
        "sign-key": LazyCommand("Create keys that sign contracts", "sign:sign_key_app"),
        "manifests": LazyCommand(
            "Print the EnvoyFilter for a mesh, a namespace or a workload, as YAML for kubectl",
            "manifests:manifests_app",
        ),
    },
}
