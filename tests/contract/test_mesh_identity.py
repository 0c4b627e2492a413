import re

import pytest

from devroute.contract.mesh_identity import URI_PATTERN, account_of, caller_of, sender_namespace

WEB = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.mark.parametrize(
    ("identity", "account"),
    [
        (WEB, "shop/web"),
        ("spiffe://other/ns/shop/sa/web", "shop/web"),
        (WEB + "/more", ""),
        ("spiffe://cluster.local/web", ""),
        ("", ""),
    ],
)
def test_an_identity_of_istio_s_form_names_an_account(identity: str, account: str) -> None:
    assert account_of(identity) == account


@pytest.mark.parametrize("text", ["spiffe://a,b", "spiffe://", "spiffe://a b", "https://a", "spiffe://\xe9"])
def test_no_comma_space_or_other_scheme_is_in_an_identity(text: str) -> None:
    assert re.fullmatch(URI_PATTERN, text) is None
    assert re.fullmatch(URI_PATTERN, WEB) is not None


@pytest.mark.parametrize(
    ("fields", "caller"),
    [
        (b"", ""),
        (b"x-devroute-caller: spiffe://c/ns/shop/sa/web\r\n", "shop/web"),
        (b"x-devroute-caller: spiffe://elsewhere/web\r\n", "spiffe://elsewhere/web"),
        (
            b"X-Forwarded-Client-Cert: By=spiffe://c/ns/a/sa/foo;Hash=1;URI=spiffe://c/ns/shop/sa/web\r\n",
            "shop/web",
        ),
        (b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b,By=x;URI=spiffe://c/ns/c/sa/d\r\n", "a/b"),
        (
            b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b\r\n"
            b"x-devroute-caller: spiffe://c/ns/shop/sa/web\r\n",
            "shop/web",
        ),
        (b"x-note: x-devroute-caller: spiffe://c/ns/shop/sa/web\r\n", ""),
    ],
)
def test_the_caller_is_what_the_sidecar_verified_first(fields: bytes, caller: str) -> None:
    assert caller_of(b"GET / HTTP/1.1\r\nhost: foo\r\n" + fields + b"\r\n") == caller


@pytest.mark.parametrize(
    ("fields", "namespace"),
    [
        (b"", None),
        (b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b\r\n", "a"),
        (b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b,By=x;URI=spiffe://c/ns/c/sa/d\r\n", "c"),
        (
            b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b\r\nX-Forwarded-Client-Cert: Hash=1\r\n",
            None,
        ),
    ],
)
def test_the_sender_is_in_the_last_element(fields: bytes, namespace: str | None) -> None:
    assert sender_namespace(b"GET / HTTP/1.1\r\nhost: foo\r\n" + fields + b"\r\n") == namespace
