import pytest

from devroute.auth.identity import Identity
from devroute.auth.sessions import (
    MAX_OF_SUBJECT,
    Session,
    SessionTable,
    decode_session,
    digest,
    is_origin,
    new_code,
    new_cookie,
)

NOW = 1_000.0


def session(subject: str = "alice", expires: float = NOW + 60) -> Session:
    identity = Identity(subject, frozenset({"qa"}), expires=5e9, token_id="ab", kind="oidc")
    return Session(identity, "https://devroute.example", "devroute.example", expires)


def test_a_code_is_taken_once_and_for_a_minute() -> None:
    table = SessionTable()
    table.put(digest("secret"), session(), NOW)
    assert table.take(digest("secret"), NOW + 60) is None
    assert table.take(digest("another"), NOW) is None
    assert table.take(digest("secret"), NOW + 59) == session()
    assert table.take(digest("secret"), NOW) is None


def test_a_digest_that_only_begins_alike_opens_nothing() -> None:
    table = SessionTable()
    table.put(digest("secret"), session(), NOW)
    assert table.get(digest("secret")[:16] + "0" * 48, NOW) is None


def test_a_subject_has_a_limit_of_sessions_and_others_are_not_affected() -> None:
    table = SessionTable()
    table.put(digest("bob"), session("bob"), NOW)
    for number in range(MAX_OF_SUBJECT + 1):
        table.put(digest(str(number)), session(), NOW)
    assert len(table) == MAX_OF_SUBJECT + 1
    assert table.get(digest("0"), NOW) is None
    assert table.get(digest("1"), NOW) is not None
    assert table.get(digest("bob"), NOW) is not None


def test_expired_sessions_are_dropped() -> None:
    table = SessionTable()
    table.put(digest("old"), session(), NOW)
    table.put(digest("new"), session("bob", NOW + 200), NOW + 100)
    assert len(table) == 1


def test_secrets_have_128_bits_and_more() -> None:
    assert (len(new_code()), len(new_cookie())) == (22, 43)  # of base64, 6 bits each


def test_a_session_is_the_same_at_another_replica_and_nothing_else_is_one() -> None:
    assert decode_session(session().encode()) == session()
    for raw in (b"", b"{}", b"[]", b'{"identity": {}}', b"x" * 100_000, session().encode()[:-1]):
        assert decode_session(raw) is None


@pytest.mark.parametrize(
    "origin", ["https://devroute.example", "http://127.0.0.1:8081", "https://[::1]:8443"]
)
def test_an_origin_is_scheme_host_and_port(origin: str) -> None:
    assert is_origin(origin)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://a/", "https://a/b", "https://a?b", "https://a#b", "https://", "//a", "a", "", None, 7),
        *("https://u@a", "ftp://a", "https://a:0", "https://a:99999", "https://a\\b", "https://a b", "null"),
    ],
)
def test_nothing_else_is_an_origin(origin: object) -> None:
    assert not is_origin(origin)
