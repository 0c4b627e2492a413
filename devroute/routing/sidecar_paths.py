"""The paths of the control port that sidecars and gateways ask for, and whom they ask (SIDECAR.md). Pure.

The Lua gets them when the manifests are generated.
"""

from typing import Final

#: Questions, whose responses they wait for.
RESOLVE_PATH: Final = "/resolve"
CONTRACT_PATH: Final = "/contract"
#: Reports, whose responses they do not read.
TRACE_PATH: Final = "/trace"
COMPARE_PATH: Final = "/compare"
#: What they write as `:authority`, whatever the proxy's service is called: no route depends on it.
PROXY_AUTHORITY: Final = "devroute-proxy"
