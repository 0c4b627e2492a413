"""What of an issuer's token has to be right. Pure: keys are made here, and nothing is fetched."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.auth.identity import Identity
from devroute.auth.oidc import MAX_TOKEN, IssuerKeys, TokenRules, verify
from devroute.errors import ConfigInvalid, DevrouteError, SubjectInvalid, TokenExpired, TokenInvalid
from tests.support.issuer import AUDIENCE, SigningKey, jwks

NOW = 1_800_000_000.0
ISSUER = "https://issuer.test"
RULES = TokenRules(ISSUER, (AUDIENCE,))
KEY = SigningKey()
KEYS = IssuerKeys.parse(jwks(KEY), "keys")
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600}


def encoded(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def judged(token: str, rules: TokenRules = RULES, keys: IssuerKeys = KEYS) -> Identity:
    return verify(token, keys, rules, NOW)


def refused(token: str, rules: TokenRules = RULES, keys: IssuerKeys = KEYS) -> str:
    """Why; never in words that repeat the token or its signature."""
    with pytest.raises(DevrouteError) as caught:
        judged(token, rules, keys)
    assert isinstance(caught.value, TokenInvalid | SubjectInvalid)
    assert len(token) < 30 or token.rpartition(".")[2][:20] not in caught.value.message or token.endswith(".")
    return caught.value.message


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_each_algorithm_proves_an_identity_with_its_expiry(algorithm: str) -> None:
    key = SigningKey("a", algorithm)
    keys = IssuerKeys.parse(jwks(SigningKey("b"), key), "keys")
    token = key.sign(CLAIMS | {"groups": ["qa", "shop"], "aud": ["other", AUDIENCE]})
    assert judged(token, keys=keys) == Identity(
        "alice", frozenset({"qa", "shop"}), NOW + 600 + RULES.skew, kind="oidc"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"iss": "https://evil.test"}, "the token was issued by 'https://evil.test', not by 'https://issuer"),
        ({"iss": ISSUER + "/"}, "the token was issued by"),
        ({"iss": None}, "the token was issued by not given"),
        ({"aud": "other"}, "the token is for 'other', not for devroute.test"),
        ({"aud": ["a", "b"]}, "the token is for 'a, b'"),
        ({"aud": None}, "the token is for not given"),
        ({"aud": [["devroute.test"]]}, "the token is for"),
        ({"exp": None}, "does not say when it expires"),
        ({"exp": "soon"}, "exp is not a time"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": 10**400}, "exp is not a time"),
        ({"exp": float("nan")}, "exp is not a time"),
        ({"exp": NOW - 6}, "the token expired 6 s ago"),
        ({"nbf": NOW + 60}, "the token is not valid for another 60 s (nbf)"),
        ({"iat": NOW + 60}, "the token is not valid for another 60 s (iat)"),
        ({"sub": None}, "it has no text in the claim 'sub'"),
        ({"sub": 1}, "it has no text in the claim 'sub'"),
        ({"sub": "auth0|12"}, "the token's sub is 'auth0|12': a subject consists of"),
        ({"sub": "Alice"}, "the token's sub is 'Alice'"),
        ({"sub": "a" * 64}, "the token's sub is"),
        ({"sub": ""}, "the token's sub is ''"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused_naming_the_claim(
    changes: dict[str, Any], problem: str
) -> None:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    token = KEY.sign({"iss": ""})  # a valid signature is made below over any JSON, as PyJWT would refuse some
    header = token.partition(".")[0]
    signing_input = f"{header}.{encoded(claims)}"
    signature = KEY.private.sign(signing_input.encode())  # type: ignore[call-arg,union-attr]
    token = f"{signing_input}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert problem in refused(token)


def test_clocks_may_differ_by_the_skew_and_no_more() -> None:
    assert judged(KEY.sign(CLAIMS | {"exp": NOW - 4})).expires == NOW + 1
    assert judged(KEY.sign(CLAIMS | {"nbf": NOW + 4, "iat": NOW + 4})).subject == "alice"
    with pytest.raises(TokenExpired):
        judged(KEY.sign(CLAIMS | {"exp": NOW - 5}))
    assert "not valid for another" in refused(KEY.sign(CLAIMS | {"nbf": NOW + 6}))


# --- forgeries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(algorithm: str) -> None:
    unsigned = f"{encoded({'alg': algorithm, 'kid': 'one'})}.{encoded(CLAIMS)}."
    assert "RS256, ES256 and EdDSA are accepted" in refused(unsigned)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_used_as_a_secret_is_refused(algorithm: str) -> None:
    key = SigningKey("one", algorithm)
    keys = IssuerKeys.parse(jwks(key), "keys")
    for secret in (key.pem(), key.pem().strip(), jwks(key).encode(), json.dumps(key.jwk).encode()):
        for claimed in ("HS256", algorithm):
            signing_input = f"{encoded({'alg': claimed, 'kid': 'one'})}.{encoded(CLAIMS)}"
            mac = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
            forged = f"{signing_input}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
            assert refused(forged, keys=keys)


def test_a_key_verifies_by_its_own_algorithm_only() -> None:
    rsa = SigningKey("one", "RS256")
    assert "does not match" in refused(rsa.sign(CLAIMS))
    other = SigningKey("one")
    assert "does not match" in refused(other.sign(CLAIMS))
    assert "which its issuer does not list" in refused(SigningKey("two").sign(CLAIMS))


def test_a_key_inside_the_token_is_not_used() -> None:
    mine = SigningKey("mine")
    for header in ({"jwk": mine.jwk}, {"jku": "https://evil.test/keys"}, {"x5u": "https://evil.test"}):
        assert "which its issuer does not list" in refused(mine.sign(CLAIMS, **header))


def test_another_payload_or_header_under_the_same_signature_is_refused() -> None:
    header, payload, signature = KEY.sign(CLAIMS).split(".")
    bobs = encoded(CLAIMS | {"sub": "bob"})
    assert "does not match" in refused(f"{header}.{bobs}.{signature}")
    again = encoded({"typ": "JWT", "alg": "EdDSA", "kid": "one"})
    assert "does not match" in refused(f"{again}.{payload}.{signature}")


def test_tokens_of_other_kinds_are_refused() -> None:
    assert "typ is 'devroute+jwt'" in refused(KEY.sign(CLAIMS, typ="devroute+jwt"))
    assert "nor a JWT that can be read" in refused(KEY.sign(CLAIMS, crit=["exp"]))
    assert judged(KEY.sign(CLAIMS, typ="at+jwt")).subject == "alice"


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "[.[.[", "e30.e30.e30", "\udcff.b.c", "é.é.é", "x" * 100]
)
def test_a_malformed_token_is_refused(token: str) -> None:
    assert "nor a JWT" in refused(token) or "algorithm is" in refused(token)


def test_a_deeply_nested_or_oversize_token_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    assert refused(f"{deep}.{deep}.")
    payload = f"{KEY.sign(CLAIMS).partition('.')[0]}.{deep}."
    assert "payload is not a JSON object" in refused(payload)
    large = KEY.sign(CLAIMS | {"groups": ["g" * 50] * 200})
    assert f"longer than {MAX_TOKEN}" in refused(large)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=70))
def test_no_bytes_make_it_raise_anything_else(header: bytes, payload: bytes, signature: bytes) -> None:
    parts = (base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (header, payload, signature))
    refused(".".join(parts))


# --- who it is ----------------------------------------------------------------------------------------


def test_an_email_address_is_a_subject_where_its_domain_is_the_listed_one() -> None:
    rules = TokenRules(ISSUER, (AUDIENCE,), subject_claim="email", email_domain="corp.test")
    assert judged(KEY.sign(CLAIMS | {"email": "Ann.Lee@Corp.test"}), rules).subject == "ann-lee"
    for email, problem in [
        ("ann@evil.test", "not one of @corp.test"),
        ("ann@evil.test@corp.test", "a subject consists of"),
        ("@corp.test", "the token's email is"),
        ("ann", "not one of @corp.test"),
        ("ann+x@corp.test", "a subject consists of"),
        ("ann@corp.test.evil.test", "not one of"),
        ("mi\u212ae@corp.test", "has other characters than ASCII"),  # the Kelvin sign is k in lower case
    ]:
        assert problem in refused(KEY.sign(CLAIMS | {"email": email}), rules)
    unverified = KEY.sign(CLAIMS | {"email": "ann@corp.test", "email_verified": False})
    assert "not verified" in refused(unverified, rules)


def test_another_claim_may_be_the_subject_and_groups_may_be_one_text() -> None:
    rules = TokenRules(ISSUER, (AUDIENCE,), subject_claim="preferred_username", groups_claim="roles")
    token = KEY.sign(CLAIMS | {"preferred_username": "bob", "roles": "qa shop", "groups": ["x"]})
    assert judged(token, rules) == Identity("bob", frozenset({"qa", "shop"}), NOW + 605, kind="oidc")
    odd = KEY.sign(CLAIMS | {"preferred_username": "bob", "roles": [1, {"a": 1}, "qa"]})
    assert judged(odd, rules).groups == {"qa"}


# --- keys ---------------------------------------------------------------------------------------------


def test_keys_that_cannot_verify_are_left_out() -> None:
    weak = SigningKey("weak", "RS256", bits=1024)
    encrypting = SigningKey("enc")
    encrypting.jwk["use"] = "enc"
    signing = SigningKey("sign")
    signing.jwk["key_ops"] = ["sign", "wrapKey"]
    none = SigningKey("none")
    none.jwk["key_ops"] = []
    text = SigningKey("text")
    text.jwk["key_ops"] = "verify"
    both = SigningKey("both")
    both.jwk |= {"key_ops": ["verify"], "use": "enc"}
    KEY.jwk["key_ops"] = ["verify"]
    other = SigningKey("other", "RS256")
    other.jwk["alg"] = "RS512"
    listed = [
        signing.jwk,
        none.jwk,
        text.jwk,
        both.jwk,
        weak.jwk,
        encrypting.jwk,
        other.jwk,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"},
        1,
        {},
    ]
    listed += [{"kty": "OKP", "crv": "Ed25519", "x": "!", "kid": "broken"}, {"kty": ["RSA"]}, KEY.jwk]
    assert list(IssuerKeys.parse(json.dumps({"keys": listed}), "keys").by_id) == ["one"]
    del KEY.jwk["key_ops"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', '{"keys": []}', "[" * 5000])
def test_a_document_that_is_no_jwks_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"keys\.json: "):
        IssuerKeys.parse(text, "keys.json")


def test_a_token_without_a_key_id_is_verified_by_the_only_key() -> None:
    key = SigningKey(None)
    assert judged(key.sign(CLAIMS), keys=IssuerKeys.parse(jwks(key), "keys")).subject == "alice"
    several = IssuerKeys.parse(jwks(key, KEY), "keys")
    assert "does not list" in refused(key.sign(CLAIMS), keys=several)
