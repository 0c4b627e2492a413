import hashlib

import pytest
import yaml

from devroute.auth.authenticator import Authenticator
from devroute.auth.client_certificate import identity_of
from devroute.auth.identity import Identity
from devroute.auth.oidc import TokenRules, subject_of
from devroute.auth.tokens import MAX_SECRET, TokenRecord, Tokens, bearer_token, new_token, owns
from devroute.errors import ConfigInvalid, SubjectInvalid, TokenExpired, TokenInvalid


def test_a_new_token_is_known_by_its_file_and_the_file_does_not_hold_it() -> None:
    secret, record = new_token("alice", created="2026-01-31")
    text = record.as_yaml()
    assert secret not in text
    assert secret.removeprefix("dvr_") not in text
    assert Tokens.parse(text).identity_of(secret, 0).subject == "alice"
    assert yaml.safe_load(text)[0]["created"] == "2026-01-31"


def test_each_token_is_different_and_a_subject_may_have_several() -> None:
    first, one = new_token("alice")
    second, two = new_token("alice")
    other, three = new_token("bob")
    tokens = Tokens.parse("# the team\n" + one.as_yaml() + two.as_yaml() + three.as_yaml())
    found = [tokens.identity_of(secret, 0).subject for secret in (first, second, other)]
    assert found == ["alice", "alice", "bob"]
    assert len({first, second, other}) == 3
    assert len(first) == len("dvr_") + 64


@pytest.mark.parametrize("secret", ["", "dvr_", "dvr_" + "0" * 64, "x" * 10_000, "\udcff", "é"])
def test_an_unknown_secret_is_refused_without_repeating_it(secret: str) -> None:
    tokens = Tokens((new_token("alice")[1],))
    with pytest.raises(TokenInvalid) as caught:
        tokens.identity_of(secret, 0)
    assert len(secret) < 5 or secret not in caught.value.message
    assert "devroute token new" in caught.value.hint


def test_a_secret_with_something_after_it_is_refused_even_beyond_the_limit() -> None:
    secret = "dvr_".ljust(MAX_SECRET, "7")
    record = TokenRecord(subject="alice", sha256=hashlib.sha256(secret.encode()).hexdigest())
    assert Tokens((record,)).identity_of(secret, 0).subject == "alice"
    with pytest.raises(TokenInvalid):
        Tokens((record,)).identity_of(secret + "x", 0)


def test_the_bearer_scheme_is_read_in_any_case_and_nothing_else_is() -> None:
    assert bearer_token("Bearer dvr_1") == bearer_token("bearer  dvr_1 ") == "dvr_1"
    for field in ("", "dvr_1", "Basic dvr_1", "Bearer"):
        assert bearer_token(field) == ""


SUBJECTS = ("ann", "ann-lee", "ann-lee-2", "lee", "a", "an", "annlee")
REST = ("laptop", "lee", "lee-2", "-lee", "--lee", "2", "lee--2")


def test_a_name_has_one_owner_at_most() -> None:
    names = [*SUBJECTS, *(f"{subject}--{rest}" for subject in SUBJECTS for rest in REST)]
    for name in names:
        assert [subject for subject in SUBJECTS if owns(subject, name)] == [name.partition("--")[0]]
    for name in ("", "ann-", "ann-laptop", "alicent"):
        assert not any(owns(subject, name) for subject in SUBJECTS)


@pytest.mark.parametrize("subject", ["ann--lee", "xn--mller-kva"])
def test_no_source_of_subjects_accepts_the_separator_in_one(subject: str) -> None:
    fixed = subject.replace("--", "-")
    with pytest.raises(ConfigInvalid, match=f"separates it from the rest of a laptop's name; write {fixed}"):
        new_token(subject)
    with pytest.raises(ConfigInvalid, match=f"write {fixed}"):
        Tokens.parse(f"[{{subject: {subject}, sha256: {'0' * 64}}}]")
    certificate = {"subject": [[("commonName", subject)]], "notAfter": "Nov 29 00:00:00 2036 GMT"}
    with pytest.raises(SubjectInvalid, match=f"write {fixed}"):
        identity_of(certificate, "cn")
    for claims in ({"sub": subject}, {"email": f"{subject.replace('--', '..')}@corp.test"}):
        rules = TokenRules("i", ("a",), subject_claim=next(iter(claims)), email_domain="corp.test")
        with pytest.raises(SubjectInvalid, match=f"write {fixed}"):
            subject_of(claims, rules)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "not valid YAML at line"),
        ("alice: dvr_secret", "write a list of tokens"),
        ("- dvr_secret", "0:"),
        ("- {subject: Alice, sha256: dvr_secret}", "0.subject: a subject consists of"),
        ("- {subject: alice, sha256: dvr_secret}", "0.sha256: not a SHA-256"),
        ("- {subject: alice, token: dvr_secret}", "0.sha256"),
        ("- !!python/name:os.system dvr_secret", "not valid YAML"),
    ],
)
def test_a_wrong_token_file_is_refused_naming_the_place_and_never_a_secret(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Tokens.parse(text, "t.yaml")
    assert caught.value.message.startswith("t.yaml: ")
    assert problem in caught.value.message
    assert "dvr_secret" not in caught.value.message


def test_an_empty_file_has_no_tokens() -> None:
    assert Tokens.parse("# none yet\n").records == ()


def test_a_wrong_subject_gets_no_token() -> None:
    with pytest.raises(ConfigInvalid, match="write alice"):
        new_token("Alice")


def test_a_token_may_expire_and_is_refused_from_then_on() -> None:
    secret, record = new_token("alice", expires="2026-03-01T02:00:00+02:00")
    tokens = Tokens.parse(record.as_yaml())
    moment = record.expiry
    assert moment is not None
    assert tokens.records[0].expires == "2026-03-01T00:00:00Z"
    assert tokens.identity_of(secret, moment - 1) == Identity("alice", expires=moment, token_id=record.id)
    with pytest.raises(TokenExpired, match="the token of 'alice' expired at 2026-03-01T00:00:00Z"):
        tokens.identity_of(secret, moment)


@pytest.mark.parametrize("written", ["2026-03-01", "2026-03-01 00:00:00", "'2026-03-01'", "2026-03-01T00Z"])
def test_an_expiry_may_be_written_in_several_forms(written: str) -> None:
    text = new_token("alice")[1].as_yaml() + f"  expires: {written}\n"
    assert Tokens.parse(text).records[0].expires == "2026-03-01T00:00:00Z"


def test_an_expiry_that_is_no_time_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"0\.expires: not a time"):
        Tokens.parse(new_token("alice")[1].as_yaml() + "  expires: soon\n")


def test_an_identity_is_not_current_once_its_token_is_removed_or_another_subject_s() -> None:
    secret, record = new_token("alice")
    identity = Tokens((record,)).identity_of(secret, 0)
    assert Tokens((record,)).record_of(identity) is record
    assert Tokens(()).record_of(identity) is None
    assert Tokens((record.model_copy(update={"subject": "bob"}),)).record_of(identity) is None


def test_an_identity_lasts_until_the_earlier_end_of_then_and_of_the_file_now() -> None:
    secret, record = new_token("alice")
    limited = record.model_copy(update={"expires": "2026-03-01T00:00:00Z"})
    end = limited.expiry
    assert end is not None
    for before, after in ((record, limited), (limited, record), (limited, limited)):
        identity = Tokens((before,)).identity_of(secret, 0)
        check_current = Authenticator(lambda now=after: Tokens((now,))).check_current
        assert check_current(identity, end - 1) == end
        with pytest.raises(TokenExpired, match="the token of 'alice'"):
            check_current(identity, end)
    unlimited = Authenticator(lambda: Tokens((record,))).check_current
    assert unlimited(Tokens((record,)).identity_of(secret, 0), end) is None
