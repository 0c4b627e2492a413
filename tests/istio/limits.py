"""A local rate limit that a team merges onto routes, as Istio's documentation has it."""

import itertools
from collections.abc import Mapping

from tests.istio.changes import envoy_filter
from tests.istio.kubernetes import Document

#: Requests before the limit refuses; its bucket is filled again after ten minutes.
LIMIT = 4
_FILTER = "envoy.filters.http.local_ratelimit"
_TYPE = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_STRUCT = "type.googleapis.com/udpa.type.v1.TypedStruct"
_numbers = itertools.count(1)


def a_name() -> str:
    """Of a limit with a bucket of its own."""
    return f"limit-{next(_numbers)}"


def limit(
    name: str, context: str, labels: Mapping[str, str], host: Document, namespace: str = "shop"
) -> Document:
    """The filter without a limit, and the limit merged onto routes; `host` is how Istio matches their virtual
    host."""
    manager = {"filter": {"name": "envoy.filters.network.http_connection_manager"}}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "600s"}
    typed = {"@type": _STRUCT, "type_url": _TYPE}
    limited = {
        "stat_prefix": name,
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    }
    inserted = {"name": _FILTER, "typed_config": {**typed, "value": {"stat_prefix": "limiter"}}}
    merged = {"typed_per_filter_config": {_FILTER: {**typed, "value": limited}}}
    return envoy_filter(
        "limit",
        labels,
        {
            "applyTo": "HTTP_FILTER",
            "match": {"context": context, "listener": {"filterChain": manager}},
            "patch": {"operation": "INSERT_BEFORE", "value": inserted},
        },
        {
            "applyTo": "HTTP_ROUTE",
            "match": {"context": context, "routeConfiguration": {"vhost": host}},
            "patch": {"operation": "MERGE", "value": merged},
        },
        namespace=namespace,
    )
