"""The control port over TLS: real certificates, a real proxy, the real command line."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from devroute.agent.settings import ClientSettings
from devroute.agent.tls import tls_for_server
from devroute.auth.authenticator import Authenticator
from devroute.auth.client_certificate import SubjectPart, identity_of
from devroute.auth.identity import Identity
from devroute.auth.tls import ServerFiles, client_context
from devroute.auth.tokens import Tokens, new_token
from devroute.cli.config.sources import Source, client_settings, given_settings, proxy_settings, read_file
from devroute.errors import ConfigInvalid, ServerUnreachable, SubjectInvalid, TokenExpired
from devroute.mesh import testbed
from devroute.proxy.control.tls import RECEIVE_BYTES, TlsListener
from devroute.proxy.settings import ProxySettings
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol.websocket import request_upgrade
from tests.support.authority import Authority, Pair
from tests.support.eventually import eventually
from tests.support.paths import ROOT
from tests.support.ports import free_port

#: Beside the fixture of the module, on its loop.
aio = pytest.mark.asyncio(loop_scope="module")

SECRET, RECORD = new_token("alice")
WITHIN_S = 30.0


@dataclass
class Place:
    proxy: testbed.RunningProxy
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def get(
        self, path: str, context: ssl.SSLContext, token: str | None = SECRET
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url + path, headers=headers, ssl=context) as response,
        ):
            return response.status, await response.json()


def described(pair: Pair, **more: str) -> dict[str, str]:
    settings = {"TLS_PORT": "0", "TLS_CERT": str(pair.certificate), "TLS_KEY": str(pair.key)} | more
    return {f"DEVROUTE_{name}": value for name, value in settings.items()}


@asynccontextmanager
async def placed(folder: Path, pair: Pair, **more: str) -> AsyncIterator[Place]:
    settings = described(pair, RELOAD_INTERVAL="0.2", **more)
    async with testbed.proxy(folder, [RECORD], environment=settings) as proxy:
        (ready,) = (event for event in proxy.command.events() if event.get("event") == "proxy.ready")
        yield Place(proxy, int(str(ready["tls_port"])), folder)


async def devroute(place: Place, *line: str, **environment: str) -> tuple[int, str]:
    """The exit code of `devroute LINE` on a laptop, and its output."""
    variables = {f"DEVROUTE_{name}": value for name, value in environment.items()}
    known = {"DEVROUTE_SERVER": place.url, "DEVROUTE_TOKEN": SECRET} | variables
    async with testbed.command(place.folder, f"laptop-{os.urandom(3).hex()}", line, known) as laptop:
        async with asyncio.timeout(2 * WITHIN_S):
            code = await laptop.process.wait()
        return code, laptop.log.read_text()


def connection(authority: Authority, pair: Pair) -> tuple[str, ...]:
    certificate, key = map(str, pair)
    return "--ca-file", str(authority.file), "--client-cert", certificate, "--client-key", key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(authority: Authority) -> AsyncIterator[Place]:
    """A proxy that accepts client certificates as identities."""
    more = {"TLS_CLIENT_CA": str(authority.file), "TLS_CLIENT_SUBJECT": "cn", "TLS_CLIENT_AUTH": "optional"}
    async with placed(authority.file.parent, authority.server(), **more) as place:
        yield place


# --- servers' certificates ----------------------------------------------------------------------------


@aio
async def test_a_laptop_is_online_over_tls_and_trusts_only_the_given_authority(
    place: Place, authority: Authority
) -> None:
    code, said = await devroute(place, "status")
    assert code == 40
    assert "its certificate is not trusted" in said
    assert "--ca-file" in said
    code, said = await devroute(place, "status", "--ca-file", str(authority.file))
    assert (code, "alice" in said) == (0, True)
    laptop = {"DEVROUTE_SERVER": place.url, "DEVROUTE_TOKEN": SECRET, "DEVROUTE_CA_FILE": str(authority.file)}
    up = ("up", "foo=8001", "--output", "json")
    async with testbed.command(place.folder, "up", up, laptop) as running:

        async def online() -> bool:
            assert running.process.returncode is None, running.log.read_text()
            return any(event["event"] == "online" for event in running.events())

        await eventually(online)


@asynccontextmanager
async def listening(pair: Pair) -> AsyncIterator[int]:
    """The port of a listener that sends nothing."""
    listener = TlsListener(ServerFiles(*pair), asyncio.Protocol)
    port = await listener.start("127.0.0.1", 0, 10)
    try:
        yield port
    finally:
        await listener.close()


@aio
async def test_a_certificate_for_another_name_or_of_another_authority_fails(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    elsewhere = authority.issue("elsewhere", dns=("elsewhere.example",))
    expired = authority.server("expired", seconds=-1)
    for pair, trusted, problem in [
        (elsewhere, authority, "Hostname mismatch"),
        (expired, authority, "certificate has expired"),
        (authority.server("good"), stranger, "unable to get local issuer"),
    ]:
        async with listening(pair) as port:
            with pytest.raises(ServerUnreachable, match=problem):
                await dial(f"https://localhost:{port}", SECRET, _no_link, tls=client_context(trusted.file))
            with pytest.raises(ServerUnreachable):
                await dial(f"http://localhost:{port}", SECRET, _no_link)


def _no_link(*_: object) -> Any:
    raise AssertionError("there is no link to be made")


@aio
async def test_newer_certificates_are_used_and_broken_ones_are_rejected(authority: Authority) -> None:
    folder = authority.file.parent
    pair = authority.server("changing")
    old = pair.certificate.read_bytes(), pair.key.read_bytes()
    async with placed(folder, pair) as place:
        trust = client_context(authority.file)

        async def shown() -> str:
            _, writer = await asyncio.open_connection("localhost", place.port, ssl=trust)
            certificate = writer.get_extra_info("peercert")
            writer.close()
            return str(certificate["serialNumber"])

        async def problem() -> str | None:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{place.proxy.admin.port}/readyz") as response,
            ):
                assert response.status == 200
                return (await response.json())["tls_problem"]  # type: ignore[no-any-return]

        first = await shown()
        reader, writer = await asyncio.open_connection("localhost", place.port, ssl=trust)
        authority.server("changing")  # the same files

        async def newer() -> bool:
            return await shown() != first

        await eventually(newer)
        second = await shown()
        pair.certificate.write_bytes(old[0])  # of another key

        async def complains() -> bool:
            return "belongs to another certificate" in (await problem() or "")

        await eventually(complains)
        assert await shown() == second
        pair.key.write_bytes(old[1])

        async def older() -> bool:
            return await shown() == first

        await eventually(older)
        assert await problem() is None
        # A connection from before all of this still works.
        writer.write(b"GET /api/status HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()


@aio
async def test_the_port_for_laptops_serves_no_requests_of_sidecars(
    place: Place, authority: Authority
) -> None:
    status, answer = await place.get("/resolve", client_context(authority.file))
    assert (status, answer["code"]) == (404, "not-found")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{place.proxy.server}/resolve", headers={"x-devroute": '{"a": "b"}'}) as response,
    ):
        assert response.status == 200


@aio
async def test_old_tls_and_plain_text_are_refused_at_once(place: Place, authority: Authority) -> None:
    old = client_context(authority.file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")  # at any other level OpenSSL 3 would not even send its hello
    with pytest.raises((ssl.SSLError, ConnectionError)) as refused:
        await asyncio.open_connection("localhost", place.port, ssl=old)
    # By the server: asyncio's closes the connection, and sends no alert before it.
    assert isinstance(refused.value, ConnectionError) or "ALERT" in refused.value.reason
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(WITHIN_S):
        assert b"HTTP/1.1" not in await reader.read()
    writer.close()


def test_no_context_of_our_files_permits_an_old_tls(authority: Authority) -> None:
    for context in (ServerFiles(*authority.server()).context(), client_context(authority.file)):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@aio
async def test_a_connection_has_a_small_receive_buffer_and_the_port_is_free_after_all(
    authority: Authority,
) -> None:
    made: list[asyncio.BaseTransport] = []

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    listener = TlsListener(ServerFiles(*authority.server("small")), Kept)
    port = await listener.start("127.0.0.1", free_port(), 10)
    try:
        _, writer = await asyncio.open_connection("localhost", port, ssl=client_context(authority.file))

        async def there() -> bool:
            return bool(made)

        await eventually(there)
        # asyncio's own: what it receives into, for each connection.
        assert len(made[0]._ssl_protocol._ssl_buffer) == RECEIVE_BYTES  # type: ignore[attr-defined]  # noqa: SLF001
        writer.close()
    finally:
        await listener.close()
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port)):
        pass


# --- clients' certificates ----------------------------------------------------------------------------


@aio
async def test_a_client_certificate_may_be_required_beside_the_token(
    authority: Authority, tmp_path: Path
) -> None:
    mine = authority.issue("mine", common_name="bob")
    theirs = Authority(tmp_path, "stranger").issue("theirs", common_name="alice")
    async with placed(tmp_path, authority.server("locked"), TLS_CLIENT_CA=str(authority.file)) as place:
        for pair in (None, theirs):
            context = client_context(authority.file, *(pair or ()))
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await place.get("/api/status", context)
        status, answer = await place.get("/api/status", client_context(authority.file, *mine))
        assert (status, answer["you"]) == (200, "alice"), "the token says who, the certificate opens the door"
        status, _ = await place.get("/api/status", client_context(authority.file, *mine), token=None)
        assert status == 401


@aio
async def test_a_client_certificate_may_be_the_identity(place: Place, authority: Authority) -> None:
    bob = authority.issue("bob", common_name="bob")
    alice = authority.issue("alice", common_name="alice")
    status, answer = await place.get("/api/status", client_context(authority.file, *bob), token=None)
    assert (status, answer["you"]) == (200, "bob")
    assert 0 < answer["token_expires_s"] <= 3600
    status, answer = await place.get("/api/status", client_context(authority.file, *bob))
    assert (status, answer["code"]) == (401, "token-invalid")
    assert "'alice'" in answer["message"]
    assert "'bob'" in answer["message"]
    status, answer = await place.get("/api/status", client_context(authority.file, *alice))
    assert (status, answer["you"]) == (200, "alice")
    status, answer = await place.get("/api/status", client_context(authority.file))
    assert (status, answer["you"]) == (200, "alice"), "a certificate is optional here"
    code, said = await devroute(place, "status", *connection(authority, bob), TOKEN="")
    assert (code, "bob" in said) == (0, True), said


@aio
async def test_a_web_site_opens_no_tunnel_with_the_certificate_of_a_browser(
    place: Place, authority: Authority
) -> None:
    """A browser sends the certificate by itself, and Origin, but no Authorization."""
    carol = client_context(authority.file, *authority.issue("carol", common_name="carol"))
    for fields, status in ({"origin": "https://evil.example"}, b"403"), ({}, b"101"):
        reader, writer = await asyncio.open_connection("localhost", place.port, ssl=carol)
        writer.write(request_upgrade("localhost", "/tunnel", fields, bytes(16))[0])
        async with asyncio.timeout(WITHIN_S):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %b " % status)
            assert not fields or b'"code": "origin-denied"' in await reader.read()
        writer.transport.abort()


@aio
async def test_a_tunnel_ends_with_its_client_certificate_unless_there_is_a_newer_one(
    place: Place, authority: Authority
) -> None:
    """dora's is not renewed, erin's is."""
    for seconds in (4, 8, 16):  # a slow machine may not be online before the certificates expire
        dora, erin = (authority.issue(name, common_name=name, seconds=seconds) for name in ("dora", "erin"))
        async with laptop(place, authority, dora) as first, laptop(place, authority, erin) as second:

            async def settled() -> bool:
                ended = any(each.process.returncode is not None for each in (first, second))
                return ended or (heard(first, "online") == heard(second, "online") == 1)

            await eventually(settled)
            if first.process.returncode is not None or second.process.returncode is not None:
                continue
            authority.issue("erin", common_name="erin")
            async with asyncio.timeout(seconds + WITHIN_S):
                assert await first.process.wait() == 30, first.log.read_text()
            assert f"{dora.certificate}: the client certificate expired at" in first.log.read_text()
            assert "save it and its key in the same files" in first.log.read_text()
            assert heard(first, "offline") == 1, "the server ended the tunnel"

            async def back() -> bool:
                return heard(second, "offline") == 1 and heard(second, "back") == 1

            await eventually(back)
            assert second.process.returncode is None
            break
    else:
        pytest.fail("the laptops were never online")
    code, said = await devroute(place, "status", *connection(authority, dora), TOKEN="")
    assert (code, "the client certificate expired at" in said) == (30, True), said


def laptop(
    place: Place, authority: Authority, pair: Pair, **environment: str
) -> contextlib.AbstractAsyncContextManager[testbed.Command]:
    line = ("up", "foo=8001", "--output", "json", "--inspector", "off", *connection(authority, pair))
    known = {"DEVROUTE_SERVER": place.url} | environment
    return testbed.command(place.folder, f"up-{pair.certificate.stem}", line, known)


def heard(command: testbed.Command, event: str) -> int:
    return sum(each["event"] == event for each in command.events())


def test_a_tunnel_by_certificate_lasts_until_it_expires() -> None:
    identity = Identity("carol", expires=1000.0, kind="certificate")
    authenticator = Authenticator(Tokens, certificate="cn")
    authenticator.check_current(identity, 999.0)
    with pytest.raises(TokenExpired, match="the certificate of 'carol' has expired"):
        authenticator.check_current(identity, 1000.0)


@pytest.mark.parametrize("part", ["off", "cn"])
async def test_a_certificate_that_expires_ends_a_tunnel_whose_token_is_valid(part: SubjectPart) -> None:
    certificate: dict[str, Any] = {
        "subject": ((("commonName", "alice"),),),
        "notAfter": "Jan  1 00:00:00 2100 GMT",
    }
    end = 4_102_444_800.0  # then
    lasting, early = (new_token("alice", expires=expires) for expires in (None, "2099-01-01T00:00:00Z"))
    authenticator = Authenticator(lambda: Tokens((lasting[1], early[1])), certificate=part)
    both = await authenticator.authenticate(f"Bearer {lasting[0]}", certificate)
    assert (both.subject, both.expires) == ("alice", end)
    authenticator.check_current(both, end - 1)
    with pytest.raises(TokenExpired, match="the certificate of 'alice' has expired"):
        authenticator.check_current(both, end)
    first = await authenticator.authenticate(f"Bearer {early[0]}", certificate)
    assert first.expires == early[1].expiry != end
    with pytest.raises(TokenExpired, match="the token of 'alice' has expired"):
        authenticator.check_current(first, end)
    alone = await authenticator.authenticate(f"Bearer {lasting[0]}", None)
    assert alone.expires is None


@aio
async def test_a_tunnel_ends_with_its_required_certificate(authority: Authority, tmp_path: Path) -> None:
    async with placed(tmp_path, authority.server("gate"), TLS_CLIENT_CA=str(authority.file)) as place:
        for seconds in (4, 8, 16):  # a slow machine may not be online before it expires
            short = authority.issue("short", common_name="anybody", seconds=seconds)
            async with laptop(place, authority, short, DEVROUTE_TOKEN=SECRET) as up:
                async with asyncio.timeout(seconds + WITHIN_S):
                    assert await up.process.wait() == 30, up.log.read_text()
                if heard(up, "online"):
                    assert heard(up, "offline") == 1, "the server ended the tunnel"
                    assert "the client certificate expired at" in up.log.read_text()
                    break
        else:
            pytest.fail("the laptop was never online")


def test_the_subject_is_the_chosen_part_which_must_occur_once() -> None:
    after = {"notAfter": "Jun  9 12:00:00 2026 GMT"}
    expires = datetime(2026, 6, 9, 12, tzinfo=UTC).timestamp()
    cn: dict[str, Any] = {"subject": ((("organizationName", "x"),), (("commonName", "alice"),)), **after}
    spiffe: dict[str, Any] = {
        "subjectAltName": (("URI", "spiffe://corp/ns/dev/sa/bob"), ("DNS", "carol")),
        **after,
    }
    cases: list[tuple[dict[str, Any], SubjectPart, str]] = [
        (cn, "cn", "alice"),
        (spiffe, "uri", "bob"),
        (spiffe, "dns", "carol"),
    ]
    for certificate, part, subject in cases:
        identity = identity_of(certificate, part)
        assert (identity.subject, identity.kind, identity.expires) == (subject, "certificate", expires)
    refused: list[tuple[dict[str, Any], SubjectPart]] = [
        (cn, "dns"),
        (spiffe, "cn"),
        ({"subjectAltName": (("DNS", "a"), ("DNS", "b")), **after}, "dns"),
        ({"subject": ((("commonName", "Alice Smith"),),), **after}, "cn"),
        ({"subjectAltName": (("DNS", "*.example"),), **after}, "dns"),
        ({"subjectAltName": (("URI", "spiffe://corp/"),), **after}, "uri"),
    ]
    for certificate, part in refused:
        with pytest.raises(SubjectInvalid):
            identity_of(certificate, part)


# --- settings -----------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.server(), authority.server("other")
    locked = authority.issue("locked", dns=("localhost",), password=b"secret")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for certificate, key, problem in [
        (tmp_path / "nowhere.pem", good.key, "nowhere.pem: there is no such file"),
        (good.certificate, tmp_path / "nowhere.key", "nowhere.key: there is no such file"),
        (text, good.key, "not in PEM form"),
        (good.certificate, other.key, "the key belongs to another certificate"),
        (locked.certificate, locked.key, "locked.key: the key is encrypted"),
    ]:
        with pytest.raises(ConfigInvalid, match=problem.replace(".", r"\.")):
            client_context(None, certificate, key)
        with pytest.raises(ConfigInvalid):
            ServerFiles(certificate, key).context()
    for ca, problem in [(text, "no certificates in PEM form"), (tmp_path / "nowhere", "No such file")]:
        with pytest.raises(ConfigInvalid, match=problem):
            client_context(ca)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key belong together"),
        ({"tls_client_ca": "a.pem"}, "tls_client_ca has no effect"),
        ({"tls_client_subject": "cn"}, "tls_client_subject has no effect"),
        ({"oidc_audience": "a"}, "no effect without oidc_issuer"),
        ({"oidc_issuer": "https://i.example"}, "oidc_audience is missing"),
        (
            {"oidc_issuer": "http://i.example", "oidc_audience": "a"},
            "oidc_issuer: 'http://i.example' is plain http",
        ),
        ({"oidc_issuer": "i.example", "oidc_audience": "a"}, "is not a URL"),
        (
            {"oidc_issuer": "https://i.example", "oidc_audience": "a", "oidc_jwks": "http://i.example/k"},
            "oidc_jwks: ",
        ),
        (
            {"oidc_issuer": "https://i.example", "oidc_audience": "a", "oidc_subject_claim": "email"},
            "oidc_email_domain is missing",
        ),
        ({"oidc_client_id": "c"}, "no effect without oidc_issuer"),
        ({"oidc_client_secret": "s"}, "oidc_client_secret has no effect without oidc_client_id"),
        (
            {"oidc_issuer": "https://i.example", "oidc_audience": "a", "oidc_client_id": "c"},
            "oidc_audience lacks the client of devroute login, 'c'",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigInvalid, match=problem):
        proxy_settings([Source("flags", values)])


def test_settings_that_agree_are_accepted() -> None:
    settings = proxy_settings(
        [Source("environment", {"oidc_issuer": "https://i.example/", "oidc_audience": "a, b"})]
    )
    assert (settings.oidc_issuer, settings.oidc_audience) == ("https://i.example/", ("a", "b"))
    assert ProxySettings().tls_cert is None
    assert tls_for_server(ClientSettings(server="http://localhost:1")) is None


def test_the_settings_of_each_provider_of_the_sso_page_are_valid() -> None:
    text = (ROOT / "docs" / "sso.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    proxies = [read_file(example, "sso.md") for example in examples if example.startswith("proxy:")]
    issuers = {proxy_settings([source]).oidc_issuer for source in proxies}
    assert len(issuers) == len(proxies) == 6
    laptops = [read_file(example, "sso.md") for example in examples if "token_command:" in example]
    assert [len(given_settings([source]).token_command) > 3 for source in laptops] == [True, True]


def test_the_documented_settings_are_valid() -> None:
    text = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    *proxies, laptop = [read_file(example, "identity.md") for example in examples]
    issuer, tls = (proxy_settings([source]) for source in proxies)
    assert (issuer.oidc_audience, tls.tls_client_auth) == (("devroute",), "required")
    settings = client_settings([laptop])
    assert settings.token_command[:3] == ("gcloud", "auth", "print-identity-token")
    assert len(settings.servers) == 1
