"""Which services are protected from laptops' errors. On a real Envoy: tests/envoy/test_caller.py."""

import pytest

from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.outlier_detection import PROTOCOLS, Protected, outlier_filter, read_protected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo.shop:8080", Protected("foo", "shop", 8080, "http")),
        ("foo.shop:80=http2", Protected("foo", "shop", 80, "http2")),
        ("foo.shop:80=client", Protected("foo", "shop", 80, "client")),
    ],
)
def test_a_port_is_written_with_its_service_and_protocol(text: str, expected: Protected) -> None:
    assert read_protected(text) == expected


@pytest.mark.parametrize(
    "text",
    ["foo", "foo:80", "foo.shop", "foo.shop:0", "foo.shop:80=tcp", "Foo.shop:80", "foo.shop:99999", ""],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="outlier detection: "):
        read_protected(text)


def test_callers_and_gateways_get_the_matcher_and_keep_what_they_speak() -> None:
    given = [Protected("foo", "shop", 8080, "http2"), Protected("bar", "shop", 80, "http")]
    patches = outlier_filter(given, "istio-system", "corp.example")["spec"]["configPatches"]
    found = [
        (
            each["match"]["context"],
            each["match"]["cluster"]["service"],
            each["match"]["cluster"]["portNumber"],
        )
        for each in patches
    ]
    assert found == [
        (context, f"{each.service}.shop.svc.corp.example", each.port)
        for each in given
        for context in ("SIDECAR_OUTBOUND", "GATEWAY")
    ]
    (options,) = patches[0]["patch"]["value"]["typed_extension_protocol_options"].values()
    assert options.items() >= PROTOCOLS["http2"].items()


def test_a_port_has_one_protocol() -> None:
    with pytest.raises(ConfigInvalid, match=r"foo\.shop:80 is given with 2 protocols"):
        outlier_filter(
            [Protected("foo", "shop", 80, each) for each in ("http", "http2")], "istio-system", "c.l"
        )
    twice = [Protected("foo", "shop", 80, "http")] * 2
    assert outlier_filter(twice, "istio-system", "c.l") == outlier_filter(twice[:1], "istio-system", "c.l")
