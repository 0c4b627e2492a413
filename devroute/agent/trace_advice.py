"""What to change in an app that drops the contract, by the program that it calls others with. Pure.

A sidecar reports the `user-agent` of a request that came without the contract: it names the HTTP client of
the app that sent it, and so the language. An app may pass on its caller's `user-agent`, or set one of its
own: then there is no advice, or that for the caller's language.
"""

import re
from dataclasses import dataclass
from typing import Final

#: Where each language has its lines.
PAGE: Final = "docs/propagation.md"


@dataclass(frozen=True, slots=True)
class Advice:
    """`fix`: one line that has the app's requests pass on the contract, in the words of its language."""

    language: str
    fix: str


_PYTHON: Final = Advice("Python", "start it by `opentelemetry-instrument python app.py`")
_NODE: Final = Advice(
    "Node.js", "start it with NODE_OPTIONS='--require @opentelemetry/auto-instrumentations-node/register'"
)
_GO: Final = Advice(
    "Go",
    "otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator("
    "propagation.TraceContext{}, propagation.Baggage{})), and otelhttp or otelgrpc on both sides",
)
_JAVA: Final = Advice("Java", "start it with JAVA_TOOL_OPTIONS=-javaagent:opentelemetry-javaagent.jar")
_DOTNET: Final = Advice(
    ".NET",
    'builder.Services.AddHeaderPropagation(o => { o.Headers.Add("x-devroute"); o.Headers.Add("baggage"); })',
)
_RUBY: Final = Advice("Ruby", "OpenTelemetry::SDK.configure { |c| c.use_all }")
_PHP: Final = Advice("PHP", "install the extension opentelemetry, and set OTEL_PHP_AUTOLOAD_ENABLED=true")

#: The first that matches. Names of programs stand at the beginning, as their authors write them.
_CLIENTS: Final = (
    (r"python|aiohttp|urllib3|grpc-python", _PYTHON),
    (r"node|undici|axios|got |grpc-node|superagent|needle", _NODE),
    (r"go-http-client|grpc-go|go-resty|fasthttp", _GO),
    (r"java|okhttp|apache-httpclient|reactornetty|jetty|grpc-java|vert\.x|akka-http|ktor|feign", _JAVA),
    (r"grpc-dotnet|dotnet|restsharp", _DOTNET),
    (r"ruby|faraday|rest-client|httparty|typhoeus|grpc-ruby", _RUBY),
    (r"php|guzzlehttp|symfony|grpc-php", _PHP),
)
_PATTERNS: Final = tuple((re.compile(rf"\s*(?:{names})", re.IGNORECASE), each) for names, each in _CLIENTS)


def advice_for(user_agent: str) -> Advice | None:
    """None where the client is not known: a browser, curl, a name of the app's own."""
    return next((each for pattern, each in _PATTERNS if pattern.match(user_agent)), None)
