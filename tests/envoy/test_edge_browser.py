"""The edge for plain browsers: `?devroute=` sets a cookie where the user wants it, and asks where another
site may want it; the cookie becomes the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse

from devroute.contract.signer import SigningKey
from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.gateway_filter import EdgeSettings
from tests.envoy.edge import (
    CONTRACT,
    CONTROL,
    ENCODED,
    EVERYBODY,
    HOST,
    NOT_ALLOWED,
    Edge,
    Fields,
    Issuer,
    gateway,
    signed,
    values,
    verdict,
)

pytestmark = pytest.mark.mesh

HTTPS = ("x-forwarded-proto", "https")


def fetched(site: str, mode: str = "navigate", dest: str = "document") -> Fields:
    """Fetch Metadata, which browsers send to https and to loopback."""
    return [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]


TYPED = fetched("none")


def cookie_of(response: ClientResponse) -> tuple[str, set[str]]:
    (cookie,) = response.headers.getall("set-cookie")
    pair, *attributes = cookie.split("; ")
    return pair, set(attributes)


# --- which requests set the cookie --------------------------------------------------------------------------

SETS, ASKS, APP = "sets the cookie", "asks", "is the app's"
LINK, FORM = f"/p?devroute={ENCODED}", f"/p?confirm-devroute={ENCODED}"


@dataclass(frozen=True)
class Case:
    expected: str
    fields: Fields = ()
    path: str = LINK
    method: str = "GET"


CASES = {
    "typed": Case(SETS, TYPED),
    "a link of the same origin": Case(SETS, fetched("same-origin")),
    "HEAD, typed": Case(SETS, TYPED, method="HEAD"),
    "a link of another site": Case(ASKS, fetched("cross-site")),
    "a link of a sibling domain": Case(ASKS, fetched("same-site")),
    "a link of another site with a forged Origin": Case(
        ASKS, [*fetched("cross-site"), ("origin", f"http://{HOST}")]
    ),
    "a frame of another site": Case(ASKS, fetched("cross-site", dest="iframe")),
    "a frame of the same origin": Case(ASKS, fetched("same-origin", dest="iframe")),
    "an image of another site": Case(APP, fetched("cross-site", "no-cors", "image")),
    "a script of the same origin": Case(APP, fetched("same-origin", "no-cors", "script")),
    "a fetch of the same origin": Case(APP, fetched("same-origin", "cors", "empty")),
    "unknown metadata": Case(ASKS, fetched("elsewhere")),
    "a browser without Fetch Metadata": Case(ASKS),
    "the same from a page of this host": Case(ASKS, [("referer", f"http://{HOST}/")]),
    "the app's own POST": Case(APP, fetched("same-origin"), method="POST"),
    "PUT": Case(APP, TYPED, method="PUT"),
    "the form of our page": Case(SETS, fetched("same-origin"), FORM, "POST"),
    "the form, without Fetch Metadata": Case(SETS, [("origin", f"http://{HOST}")], FORM, "POST"),
    "the form behind a load balancer that ends TLS": Case(
        SETS, [("origin", f"https://{HOST}")], FORM, "POST"
    ),
    "a form of another site": Case(ASKS, fetched("cross-site"), FORM, "POST"),
    "a form of another site, without Fetch Metadata": Case(
        ASKS, [("origin", "http://evil.example")], FORM, "POST"
    ),
    "a form of a host that begins alike": Case(
        ASKS, [("origin", f"http://{HOST}.evil.example")], FORM, "POST"
    ),
    "a form of another port": Case(ASKS, [("origin", f"http://{HOST}:8080")], FORM, "POST"),
    "a form of a hidden origin": Case(ASKS, [("origin", "null")], FORM, "POST"),
    "a form without an origin": Case(ASKS, (), FORM, "POST"),
    "a link to the form": Case(APP, TYPED, FORM),
}


async def test_only_what_the_user_wants_sets_the_cookie(opened: Edge) -> None:
    for name, case in CASES.items():
        response, seen = await opened.get(case.fields, case.path, case.method)
        if case.expected == SETS:
            assert (response.status, response.headers["location"]) == (303, "/p"), name
            secure = any(key == "sec-fetch-site" for key, _ in case.fields)
            assert cookie_of(response)[0] == ("__Host-devroute=" if secure else "devroute=") + ENCODED, name
            continue
        assert (response.status, "set-cookie" in response.headers) == (200, False), name
        if case.expected == ASKS:
            assert "Route them" in seen["text"], name
        else:
            assert seen["path"] == case.path, name


async def test_a_client_without_permission_gets_the_app_s_own_page(closed: Edge) -> None:
    for name, case in CASES.items():
        response, seen = await closed.get(case.fields, case.path, case.method)
        assert (response.status, "set-cookie" in response.headers) == (200, False), name
        if case.method != "HEAD":
            assert seen["path"] == case.path, name
        result, reason = verdict(response)
        if case.expected != APP:
            assert (result, (reason or "").startswith(NOT_ALLOWED)) == ("fallback", True), name


async def test_a_token_lets_a_browser_in(closed: Edge, issuer: Issuer) -> None:
    response, _ = await closed.get([issuer.bearer(devroute=True), *TYPED], LINK)
    assert (response.status, response.headers["location"]) == (303, "/p")


async def test_a_signed_contract_of_another_site_s_link_asks_too(closed: Edge) -> None:
    response, seen = await closed.get(fetched("cross-site"), f"/?devroute={signed()}")
    assert "set-cookie" not in response.headers
    assert "Signed by qa." in seen["text"]


# --- the page -----------------------------------------------------------------------------------------------


async def test_the_page_names_services_signer_and_the_site_that_asks(opened: Edge) -> None:
    contract = '{"foo": "alice", "bar.shop": {"to": "192.0.2.1:80", "path": "/<b>&\'"}}'
    encoded = quote(contract, safe="")
    sent = [*fetched("cross-site"), ("referer", "https://evil.example/<script>?devroute=secret")]
    response, seen = await opened.get(sent, f"/a?x=\"><b>'&devroute={encoded}&y=%22")
    page = seen["text"]
    assert "A page of https://evil.example asks that for up to 60 min" in page
    assert f"from this browser to {HOST}:" in page
    assert (
        "<li>all requests for foo go to the laptop alice; if that fails, the real service responds</li>"
        in page
    )
    assert "<li>all requests for bar in namespace shop under /&lt;b&gt;&amp;&#39; go to the address" in page
    assert "<p>Not signed.</p>" in page
    action = f"/a?x=&quot;&gt;&lt;b&gt;&#39;&amp;y=%22&amp;confirm-devroute={encoded}"
    assert f'<form method="post" action="{action}">' in page
    assert '<a href="/a?x=&quot;&gt;&lt;b&gt;&#39;&amp;y=%22">' in page
    for text in ("<script", "<b>", "secret", "style="):
        assert text not in page
    assert {name: response.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS


PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


async def test_a_signed_contract_asks_and_lasts_for_its_own_time_only(closed: Edge) -> None:
    token = signed(ttl=90)
    _, seen = await closed.get(path=f"/?devroute={token}")
    assert "asks that for up to 2 min" in seen["text"]
    response, _ = await closed.get(TYPED, f"/?devroute={token}")
    (age,) = (each for each in cookie_of(response)[1] if each.startswith("Max-Age="))
    assert 60 < int(age.removeprefix("Max-Age=")) <= 90


# --- the cookie ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A way to reach a gateway, and the cookie there."""

    settings: Mapping[str, object]
    fields: Fields
    name: str
    attributes: str


KINDS = {
    "https": Kind({}, [HTTPS], "__Host-devroute", "Secure; SameSite=Lax"),
    "https behind a load balancer": Kind({}, TYPED, "__Host-devroute", "Secure; SameSite=Lax"),
    "plain http": Kind({}, [], "devroute", "SameSite=Lax"),
    "https, a domain": Kind(
        {"cookie_domain": "qa.example"},
        [HTTPS],
        "__Secure-devroute",
        "Domain=qa.example; Secure; SameSite=Lax",
    ),
    "plain http, a domain": Kind(
        {"cookie_domain": "qa.example"}, [], "devroute", "Domain=qa.example; SameSite=Lax"
    ),
    "https, form_post": Kind(
        {"cookie_same_site": "None"}, [HTTPS], "__Host-devroute", "Secure; SameSite=None"
    ),
    "plain http, form_post": Kind({"cookie_same_site": "None"}, [], "devroute", "SameSite=Lax"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_the_cookie_of_each_kind_of_gateway(tmp_path: Path, kind: Kind) -> None:
    settings = EdgeSettings(networks=EVERYBODY, **kind.settings)  # type: ignore[arg-type]
    async with gateway(tmp_path, settings, trusted_proxies=1) as edge:
        scheme = "https" if HTTPS in kind.fields else "http"
        form = [*kind.fields, ("origin", f"{scheme}://{HOST}")]
        response, _ = await edge.get(form, f"/a%20b?x=%2F+1&confirm-devroute={ENCODED}&y&z=", "POST")
        assert (response.status, response.headers["location"]) == (303, "/a%20b?x=%2F+1&y&z=")
        assert response.headers["cache-control"] == "no-store"
        pair, attributes = cookie_of(response)
        assert pair == f"{kind.name}={ENCODED}"
        assert attributes == {"Path=/", "Max-Age=3600", "HttpOnly", *kind.attributes.split("; ")}
        sent = [*kind.fields, ("cookie", f"a=1; {pair}; b=2")]
        response, seen = await edge.get(sent, "/a%20b?x=%2F+1&y&z=")
        assert (seen["path"], values(seen, "x-devroute")) == ("/a%20b?x=%2F+1&y&z=", [CONTRACT])
        assert (values(seen, "cookie"), verdict(response)) == (["a=1; b=2"], (None, None))
        for other in {"devroute", "__Host-devroute", "__Secure-devroute"} - {kind.name}:
            response, seen = await edge.get([*kind.fields, ("cookie", f"{other}={ENCODED}; a=1")])
            assert (values(seen, "x-devroute"), values(seen, "cookie")) == ([], ["a=1"]), other
            assert f"only {kind.name} does" in (verdict(response)[1] or "")
        response, _ = await edge.get(kind.fields, "/page?devroute=off")
        assert (response.status, response.headers["location"]) == (303, "/page")
        pair, attributes = cookie_of(response)
        assert (pair, "Max-Age=0" in attributes) == (f"{kind.name}=", True)


async def test_removing_the_only_cookie_leaves_no_empty_field(opened: Edge) -> None:
    _, seen = await opened.get([("cookie", f"devroute={ENCODED}")])
    assert (values(seen, "x-devroute"), values(seen, "cookie")) == ([CONTRACT], [])


async def test_the_header_and_baggage_win_over_the_cookie(opened: Edge) -> None:
    cookie = ("cookie", "devroute=" + quote('{"bar": "bob"}'))
    _, seen = await opened.get([cookie, ("x-devroute", CONTRACT)])
    assert values(seen, "x-devroute") == [CONTRACT]
    _, seen = await opened.get([cookie, ("baggage", f"devroute={ENCODED}")])
    assert (values(seen, "x-devroute"), values(seen, "baggage")) == ([], [f"devroute={ENCODED}"])


async def test_off_clears_the_cookie_of_any_client(closed: Edge) -> None:
    response, _ = await closed.get([("cookie", f"devroute={ENCODED}")], "/page?devroute=off")
    assert (response.status, response.headers["location"]) == (303, "/page")
    assert cookie_of(response)[0] == "devroute="


async def test_a_cookie_that_does_not_count_changes_nothing_but_the_reason(opened: Edge) -> None:
    for value, reason in [
        ("%0d%0aevil: 1", "is not a contract; open ?devroute=off to remove it"),
        ("%zz", "is not a contract"),
        ("plain", "is not a contract"),
        ('{"foo": "\u00e4"}', "is not a contract"),
        ("%7B%0A%7D", "is not a contract"),
        (quote("{" + "a" * 9000 + "}"), "is not a contract"),
        (quote('{"foo": "alice"'), "is not a contract"),
        (quote('{"foo": alice}'), "the contract in the cookie does not count: "),
        (quote('{"foo": "alice", "foo": "bob"}'), "the contract in the cookie does not count: "),
        (quote('{"foo": {"to": "alice", "nonsense": 1}}'), "the contract in the cookie does not count: "),
        (signed(ago=700), "the contract in the cookie does not count: the contract of 'qa' expired"),
        (signed(key=SigningKey.new("qa")), "the contract in the cookie does not count: "),
        (signed('{"foo": {"to": "alice", "fallback": "fail"}}', ago=700), "does not count"),
        (f"{ENCODED}; devroute={ENCODED}", "the cookie devroute is sent more than once"),
        (f"{ENCODED}; a=1; devroute=", "the cookie devroute is sent more than once"),
    ]:
        response, seen = await opened.get([("cookie", f"devroute={value}")])
        assert (response.status, values(seen, "x-devroute")) == (200, []), value
        result, said = verdict(response)
        assert (result, reason in (said or "")) == ("fallback", True), (value, said)
        assert not any("devroute" in each for each in values(seen, "cookie")), value


async def test_an_app_sets_no_cookie_of_ours(opened: Edge) -> None:
    response, _ = await opened.get([("x-devroute", CONTRACT)], "/sets-cookies")
    assert response.headers.getall("set-cookie") == ["devroutes=1", "session=devroute=1"]


# --- the parameter ------------------------------------------------------------------------------------------


async def test_a_redirect_never_leaves_the_host(opened: Edge) -> None:
    for path, location in [
        ("//evil.example/x?devroute=", "/.//evil.example/x"),
        ("/\\evil.example?devroute=", "/.//evil.example"),
        ("/a?next=//evil.example&devroute=", "/a?next=//evil.example"),
    ]:
        response, _ = await opened.get(TYPED, path + ENCODED)
        assert (response.status, response.headers["location"]) == (303, location)
        _, seen = await opened.get(path=path + ENCODED)
        separator = "&amp;" if "?" in location else "?"
        assert f'action="{location}{separator}confirm-devroute=' in seen["text"]


async def test_a_parameter_that_is_no_contract_is_an_error_with_that_reason(
    opened: Edge, closed: Edge
) -> None:
    for value in (
        quote(CONTRACT + "\r\nset-cookie: evil=1", safe=""),
        quote(CONTRACT[:-1] + "\n}", safe=""),
        quote('{"foo": "ü"}', safe=""),
        quote('{"foo": alice}', safe=""),
        "%7B%zz%7D",
        "hello",
        "",
        f"{ENCODED}&devroute={ENCODED}",
        f"off&devroute={ENCODED}",
        quote('{"foo": {"to": "alice", "path": "/' + "a" * 4000 + '"}}', safe=""),
    ):
        for fields in (TYPED, []):
            response, body = await opened.get(fields, f"/?devroute={value}")
            assert (response.status, body["code"]) == (400, "contract-invalid"), value
            assert "set-cookie" not in response.headers
        response, seen = await closed.get(TYPED, f"/?devroute={value}")
        assert (response.status, seen["path"]) == (200, f"/?devroute={value}"), (
            "for them, it is the app's own"
        )


async def test_a_mistyped_parameter_is_explained_as_json_and_as_a_page(opened: Edge) -> None:
    mistyped = quote("{'foo': '<alice>'}", safe="")
    meant = quote("{'foo': 'alice'}", safe="")
    response, body = await opened.get(TYPED, f"/p?devroute={meant}&x=1")
    assert (response.status, body["code"]) == (400, "contract-invalid")
    assert body["message"] == "not valid JSON at character 2: JSON needs double quotes, not single ones"
    assert body["hint"].endswith('send X-devroute: {"foo": "alice"}')
    browser = [*TYPED, ("accept", "text/html,*/*")]
    response, seen = await opened.get(browser, f"/p?devroute={meant}&x=1")
    assert (response.status, response.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "set-cookie" not in response.headers
    assert verdict(response) == ("error", body["message"])
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<pre>?devroute={&quot;foo&quot;: &quot;alice&quot;}</pre>" in seen["text"]
    assert '<a href="/p?x=1">Continue without</a>' in seen["text"]
    typographic = quote("{\u201cfoo\u201d: \u201calice\u201d}", safe="")
    response, body = await opened.get(TYPED, f"/p?devroute={typographic}")
    assert body["hint"].endswith('made typographic ones; send X-devroute: {"foo": "alice"}')
    response, seen = await opened.get(browser, f"/p?devroute={mistyped}")
    assert "<alice>" not in seen["text"], "text of a stranger is escaped"
    assert response.status == 400


async def test_quotes_and_braces_may_stand_as_they_are(opened: Edge) -> None:
    response, _ = await opened.get(TYPED, '/?devroute={%22foo%22:+"192.0.2.1:8001"}')
    assert cookie_of(response)[0] == f"__Host-devroute={ENCODED}"


async def test_without_the_proxy_the_app_responds_and_cookies_are_left_to_the_sidecars(
    tmp_path: Path,
) -> None:
    refusing = {CONTROL: Endpoint("127.0.0.1", 1)}
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY), clusters=refusing) as edge:
        response, seen = await edge.get(TYPED, LINK)
        assert (response.status, seen["path"]) == (200, LINK)
        assert "cannot be reached" in (verdict(response)[1] or "")
        response, seen = await edge.get([("cookie", f"devroute={ENCODED}")])
        assert (values(seen, "x-devroute"), verdict(response)) == ([CONTRACT], (None, None))
