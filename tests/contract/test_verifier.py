"""Signed contracts: which are accepted, and attacks on the signature, each with its reason."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWS
from jwt import encode as encode_jwt

from devroute.contract import verifier
from devroute.contract.grammar import MAX_BYTES, as_document, is_signed, parse
from devroute.contract.keys import Keys
from devroute.contract.signer import SigningKey, sign
from devroute.contract.strict_json import load
from devroute.contract.validity import SKEW_S, check_time
from devroute.contract.verifier import MAX_TTL_S, Verifier, read_unverified, verify
from devroute.errors import (
    ConfigInvalid,
    ContractExpired,
    ContractInvalid,
    ContractNotYetValid,
    ContractUntrusted,
    DevrouteError,
)
from tests.support.examples import examples

NOW = 1_800_000_000
CONTRACT = '{"foo": "alice", "bar.shop": {"to": "192.168.1.12:8001", "methods": ["POST"], "delay": "500ms"}}'
ALICE = SigningKey.new("alice")
MALLORY = SigningKey.new("alice")


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


CI = SigningKey.parse(pem(ec.generate_private_key(ec.SECP256R1())), "ci.pem")


def jwks(*keys: object) -> str:
    return json.dumps({"keys": list(keys)})


KEYS = Keys.parse(jwks(ALICE.as_public_jwk(), CI.as_public_jwk()))


def without_keys(value: object) -> str | None:
    """A name for a test's parameter. Keys differ between workers, and the names must not."""
    return "text" if isinstance(value, str) and (len(value) > 100 or value[:1] in "{-") else None


PAYLOAD = {"devroute": {"foo": "alice"}, "sub": "alice", "iat": NOW, "exp": NOW + 3600, "aud": "devroute"}
HEADER = {"typ": "devroute+jwt", "kid": ALICE.id}


def token(payload: object = PAYLOAD, header: Mapping[str, object] = HEADER, key: SigningKey = ALICE) -> str:
    """Any payload, correctly signed."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return PyJWS().encode(text.encode(), key.private, key.algorithm, dict(header))


def encoded(part: object) -> str:
    text = part if isinstance(part, str) else json.dumps(part)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


# --- accepted contracts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [ALICE, CI], ids=["EdDSA", "ES256"])
def test_a_signed_contract_reads_as_written_with_its_signer(key: SigningKey) -> None:
    raw = sign(parse(CONTRACT), key, "alice", NOW + 0.9, 7200)
    assert is_signed(raw)
    contract = verify(raw, KEYS)
    assert contract.entries == parse(CONTRACT).entries
    assert contract.signature is not None
    assert (contract.signature.subject, contract.signature.key) == ("alice", key.id)
    assert (contract.signature.starts, contract.signature.expires) == (NOW, NOW + 7200)
    assert read_unverified(raw) == contract


def test_equivalent_contracts_have_one_signed_form() -> None:
    one = parse('{"foo": {"to": "alice", "percent": 100, "fallback": "service"}, "a": "ALICE.example:80"}')
    other = parse('{"foo":"alice","a":{"to":"alice.example:80"}}')
    assert as_document(one) == as_document(other) == {"foo": "alice", "a": "alice.example:80"}


options = st.fixed_dictionaries(
    {"to": st.sampled_from(["alice", "version:v2", "192.168.1.12:8001", "[fd00::1]:80"])},
    optional={
        "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=3),
        "path": st.sampled_from(["/", "/api/"]),
        "from": st.lists(st.sampled_from(["shop/web", "spiffe://a/b"]), min_size=1, max_size=2),
        "percent": st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 3)),
        "fallback": st.sampled_from(["service", "fail"]),
        "timeout": st.sampled_from(["1s", "20ms", 3, 0.5]),
        "delay": st.sampled_from(["1s", 2.5]),
        "abort": st.integers(200, 599),
    },
)


@examples(60)
@given(st.dictionaries(st.sampled_from(["foo", "bar.shop", "baz"]), options, min_size=1))
def test_signing_changes_no_contract(document: dict[str, object]) -> None:
    contract = parse(json.dumps(document))
    again = parse(json.dumps(as_document(contract)))
    assert again.entries == contract.entries
    assert as_document(again) == as_document(contract)


def test_the_signer_refuses_a_contract_whose_token_is_too_long() -> None:
    contract = parse(json.dumps({f"s{n}": {"to": "alice", "path": "/" + "a" * 100} for n in range(55)}))
    with pytest.raises(ContractInvalid, match=f"at most {MAX_BYTES}"):
        sign(contract, ALICE, "alice", NOW, 60)


def test_clocks_may_differ_by_30_seconds() -> None:
    signature = verify(token(), KEYS).signature
    assert signature is not None
    check_time(signature, NOW - SKEW_S)
    check_time(signature, NOW + 3600 + SKEW_S - 0.1)
    with pytest.raises(ContractNotYetValid, match=r"'alice' is not valid for another 31 s"):
        check_time(signature, NOW - SKEW_S - 1)
    with pytest.raises(ContractExpired, match=r"'alice' expired 30 s ago"):
        check_time(signature, NOW + 3600 + SKEW_S)
    late = verify(token(PAYLOAD | {"nbf": NOW + 600}), KEYS).signature
    assert late is not None
    with pytest.raises(ContractNotYetValid):
        check_time(late, NOW)


# --- attacks ------------------------------------------------------------------------------------------------


def unsigned(raw: str) -> str:
    _, payload, _ = raw.split(".")
    return f"{encoded({'alg': 'none', **HEADER})}.{payload}."


def confused(raw: str) -> str:
    """HS256 with the public key's bytes as the secret: RFC 8725 §2.1."""
    _, payload, _ = raw.split(".")
    secret = ALICE.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{encoded({'alg': 'HS256', **HEADER})}.{payload}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def with_payload(raw: str, **changes: object) -> str:
    header, _, signature = raw.split(".")
    return f"{header}.{encoded(PAYLOAD | changes)}.{signature}"


def with_header(raw: str, **changes: object) -> str:
    _, payload, signature = raw.split(".")
    return f"{encoded({'alg': 'EdDSA', **HEADER} | changes)}.{payload}.{signature}"


def id_token(_: str) -> str:
    """An ID token as an identity provider would sign it, here with the same key."""
    claims = {"iss": "https://id.example", "sub": "alice", "aud": "devroute", "iat": NOW, "exp": NOW + 60}
    return encode_jwt(claims, ALICE.private, "EdDSA", headers={"kid": ALICE.id})


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def signed_by_rsa(_: str) -> str:
    return PyJWS().encode(json.dumps(PAYLOAD).encode(), RSA, "RS256", {**HEADER})


ATTACKS: dict[str, tuple[Callable[[str], str], type[DevrouteError], str]] = {
    "no signature (alg none)": (unsigned, ContractInvalid, "three parts"),
    "alg none with a signature": (
        lambda raw: unsigned(raw) + raw.split(".")[2],
        ContractUntrusted,
        "alg is 'none'; use EdDSA or ES256",
    ),
    "HS256 with the public key": (confused, ContractUntrusted, "alg is 'HS256'; use EdDSA or ES256"),
    "an algorithm that is not for contracts": (signed_by_rsa, ContractUntrusted, "alg is 'RS256'"),
    "the algorithm of another key": (
        lambda raw: with_header(raw, alg="ES256"),
        ContractUntrusted,
        "names the algorithm 'ES256', but its key is for EdDSA",
    ),
    "a wrong key under a known kid": (
        lambda _: token(key=MALLORY),
        ContractUntrusted,
        "signature does not match",
    ),
    "an unknown kid": (
        lambda _: token(header=HEADER | {"kid": MALLORY.id}, key=MALLORY),
        ContractUntrusted,
        "which this server does not know",
    ),
    "another key's kid": (
        lambda _: token(header=HEADER | {"kid": CI.id}),
        ContractUntrusted,
        "but its key is for ES256",
    ),
    "no kid": (
        lambda _: token(header={"typ": "devroute+jwt"}),
        ContractUntrusted,
        "does not name the key that signed it",
    ),
    "a kid that is not a string": (
        lambda raw: with_header(raw, kid=1),
        ContractUntrusted,
        "does not name the key that signed it",
    ),
    "a changed target": (
        lambda raw: with_payload(raw, devroute={"foo": "mallory"}),
        ContractUntrusted,
        "signature does not match: it was changed",
    ),
    "a changed expiry": (
        lambda raw: with_payload(raw, exp=NOW + 9999),
        ContractUntrusted,
        "signature does not match: it was changed",
    ),
    "a changed header": (
        lambda raw: with_header(raw, alg="EdDSA"),  # the same members, in another order
        ContractUntrusted,
        "signature does not match: it was changed",
    ),
    "a changed signature": (
        lambda raw: raw[:-6] + ("A" if raw[-6] != "A" else "B") + raw[-5:],
        ContractUntrusted,
        "signature does not match",
    ),
    "a key in the header (jwk)": (
        lambda _: token(header=HEADER | {"jwk": MALLORY.as_public_jwk()}, key=MALLORY),
        ContractUntrusted,
        "header has the unknown member 'jwk'",
    ),
    "a URL of the key (jku)": (
        lambda _: token(header=HEADER | {"jku": "https://evil.example/jwks"}),
        ContractUntrusted,
        "header has the unknown member 'jku'",
    ),
    "a critical extension (crit)": (
        lambda raw: with_header(raw, crit=["b64"], b64=False),
        ContractUntrusted,
        "header has the unknown member 'b64'",
    ),
    "a wrong aud": (
        lambda _: token(PAYLOAD | {"aud": "shop"}),
        ContractUntrusted,
        "not for devroute: its aud is 'shop'",
    ),
    "several audiences": (
        lambda _: token(PAYLOAD | {"aud": ["devroute", "shop"]}),
        ContractUntrusted,
        "not for devroute",
    ),
    "another typ": (
        lambda _: token(header=HEADER | {"typ": "JWT"}),
        ContractUntrusted,
        "the token is not a contract: its typ is 'JWT'",
    ),
    "an OIDC ID token": (id_token, ContractUntrusted, "the token is not a contract: its typ is 'JWT'"),
    "an ID token with the contract's typ": (
        lambda _: token({**PAYLOAD, "devroute": True}),
        ContractInvalid,
        "a contract is a JSON object",
    ),
    "no contract in it": (
        lambda _: token({key: value for key, value in PAYLOAD.items() if key != "devroute"}),
        ContractInvalid,
        "no claim 'devroute'",
    ),
    "another subject than the key's": (
        lambda _: token(PAYLOAD | {"sub": "bob"}),
        ContractUntrusted,
        "signed as 'bob' with the key of 'alice'",
    ),
    "no subject": (
        lambda _: token({key: value for key, value in PAYLOAD.items() if key != "sub"}),
        ContractUntrusted,
        "name its signer",
    ),
    "a subject with a line break": (
        lambda _: token(PAYLOAD | {"sub": "alice\nbob"}),
        ContractUntrusted,
        "name its signer",
    ),
    "no expiry": (
        lambda _: token({key: value for key, value in PAYLOAD.items() if key != "exp"}),
        ContractUntrusted,
        "exp is missing",
    ),
    "an expiry that is not a number": (
        lambda _: token(PAYLOAD | {"exp": True}),
        ContractUntrusted,
        "exp is missing, or is not a number",
    ),
    "a start that is not a number": (
        lambda _: token(PAYLOAD | {"nbf": "now"}),
        ContractUntrusted,
        "nbf is missing, or is not a number",
    ),
    "no time of issue": (
        lambda _: token({key: value for key, value in PAYLOAD.items() if key != "iat"}),
        ContractUntrusted,
        "iat is missing",
    ),
    "a lifetime that is too long": (
        lambda _: token(PAYLOAD | {"exp": NOW + 25 * 3600}),
        ContractUntrusted,
        "is valid for 25 h; this server accepts at most 24 h",
    ),
    "an expiry before the issue": (
        lambda _: token(PAYLOAD | {"exp": NOW - 1}),
        ContractUntrusted,
        "expires before it was issued",
    ),
    "a claim given twice": (
        lambda _: token(json.dumps(PAYLOAD)[:-1] + ', "exp": 99999999999}'),
        ContractInvalid,
        "payload names a member twice",
    ),
    "a service named twice": (
        lambda _: token(json.dumps(PAYLOAD).replace('"foo"', '"foo": "bob", "foo"')),
        ContractInvalid,
        "'foo' is named twice",
    ),
    "a contract that breaks the grammar": (
        lambda _: token(PAYLOAD | {"devroute": {"foo": {"to": "alice", "x": 1}}}),
        ContractInvalid,
        "no such option",
    ),
    "a nested JWS": (
        lambda raw: token(raw, HEADER | {"cty": "JWT"}),
        ContractUntrusted,
        "header has the unknown member 'cty'",
    ),
    "a JWS as the payload": (lambda raw: token(json.dumps(raw)), ContractInvalid, "not a JSON object"),
    "a JWS as the contract": (
        lambda raw: token(PAYLOAD | {"devroute": raw}),
        ContractInvalid,
        "a contract is a JSON object",
    ),
    "oversized": (
        lambda _: token(PAYLOAD | {"x": "a" * MAX_BYTES}),
        ContractInvalid,
        f"at most {MAX_BYTES} are allowed",
    ),
    "padding": (lambda raw: raw + "==", ContractInvalid, "three parts of base64url"),
    "a header that is no JSON": (
        lambda raw: "ey" + raw[5:],
        ContractInvalid,
        "header",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_on_a_token_is_refused_with_its_reason(name: str) -> None:
    attack, error, message = ATTACKS[name]
    with pytest.raises(error) as caught:
        verify(attack(token()), KEYS)
    assert message in caught.value.message
    assert caught.value.code in ("contract-invalid", "contract-untrusted")


@examples(80)
@given(st.data())
def test_no_single_character_can_be_changed(data: st.DataObject) -> None:
    raw = token()
    at = data.draw(st.integers(0, len(raw) - 2))  # the last character of a signature has unused bits
    changed = raw[:at] + data.draw(st.sampled_from("AQgw.{ \n")) + raw[at + 1 :]
    if changed != raw:
        with pytest.raises((ContractInvalid, ContractUntrusted)):
            verify(changed, KEYS)


@examples(100)
@given(st.text(max_size=60), st.sampled_from(["", "ey", token()[:100], token() + "."]))
def test_garbage_raises_only_the_documented_errors(text: str, before: str) -> None:
    for read in (lambda raw: verify(raw, KEYS), read_unverified):
        with pytest.raises((ContractInvalid, ContractUntrusted)):
            read(before + text)


# --- the cache ----------------------------------------------------------------------------------------------


class Ring:
    """Keys that can change, and a count of the verified signatures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = KEYS
        self.verified = 0
        genuine = verifier.verify

        def counting(raw: str, keys: Keys, *more: Any) -> verifier.Contract:
            self.verified += 1
            return genuine(raw, keys, *more)

        monkeypatch.setattr(verifier, "verify", counting)
        self.read = Verifier(lambda: self.keys)


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    return Ring(monkeypatch)


def test_a_signature_is_verified_once_until_the_keys_change(ring: Ring) -> None:
    raw = token()
    assert ring.read(raw) is ring.read(raw)
    assert ring.verified == 1
    ring.keys = Keys.parse(jwks(CI.as_public_jwk()))
    with pytest.raises(ContractUntrusted, match="does not know"):
        ring.read(raw)
    ring.keys = KEYS
    ring.read(raw)
    assert ring.verified == 3


def test_the_cache_of_verified_contracts_is_bounded(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_VERIFIED", 10)
    contracts = [token(PAYLOAD | {"exp": NOW + 60 + number}) for number in range(11)]
    for raw in (*contracts[:9], *contracts[:9]):
        ring.read(raw)
    assert ring.verified == 9
    for raw in (*contracts[9:], contracts[0]):
        ring.read(raw)
    assert ring.verified == 12, "the first is remembered no longer"


def test_unsigned_contracts_need_no_keys_and_signed_ones_do(ring: Ring) -> None:
    assert ring.read(CONTRACT).signature is None
    ring.keys = Keys()
    assert ring.read(CONTRACT).signature is None
    with pytest.raises(ContractInvalid, match="does not accept signed contracts"):
        ring.read(token())


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "write a JWKS"),
        (json.dumps(ALICE.as_public_jwk()), "write a JWKS"),
        (jwks(1), "keys.0: not an object"),
        (jwks(ALICE.as_jwk()), "keys.0: this is a private key"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "1"}), "keys.0: this is a private key"),
        (jwks(ALICE.as_public_jwk(), ALICE.as_public_jwk()), "keys.1: another key has the kid"),
        (jwks(ALICE.as_public_jwk() | {"kid": None}), "keys.0: kid is missing"),
        (jwks(ALICE.as_public_jwk() | {"kid": "a b"}), "keys.0: kid is missing"),
        (jwks(ALICE.as_public_jwk() | {"sub": ["a"]}), "keys.0: sub is not"),
        (jwks(ALICE.as_public_jwk() | {"x": "AAAA"}), "keys.0: not a valid key"),
        (jwks(CI.as_public_jwk() | {"x": CI.as_public_jwk()["y"]}), "keys.0: not a valid key"),
        (jwks(*[{"kty": "RSA"}] * 1025), "at most 1024"),
        (" " * 1_048_577, "larger than"),
    ],
    ids=without_keys,
)  # fmt: skip
def test_an_invalid_key_file_is_refused_naming_the_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Keys.parse(text, "keys.json")
    assert caught.value.message.startswith("keys.json")
    assert problem in caught.value.message
    assert ALICE.as_jwk()["d"] not in caught.value.message


ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
JWK = ALICE.as_public_jwk()


@examples(150)
@given(st.dictionaries(st.sampled_from([*JWK, "y", "n", "d"]), ODD), st.sampled_from([JWK, CI.as_jwk(), {}]))
def test_any_malformed_key_raises_only_the_documented_error(
    changes: dict[str, object], jwk: dict[str, object]
) -> None:
    text = json.dumps(jwk | changes)
    for read in (lambda: Keys.parse(f'{{"keys": [{text}]}}'), lambda: SigningKey.parse(text, "key.json")):
        with suppress(ConfigInvalid):
            read()


def test_keys_of_other_algorithms_and_uses_are_left_out() -> None:
    others = [
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"},
        {"kty": "EC", "crv": "P-384", "kid": "p384"},
        CI.as_public_jwk() | {"use": "enc", "kid": "enc"},
        CI.as_public_jwk() | {"alg": "RS256", "kid": "confused"},
        CI.as_public_jwk() | {"key_ops": ["sign"], "kid": "sign"},
        CI.as_public_jwk() | {"key_ops": [], "kid": "none"},
        CI.as_public_jwk() | {"key_ops": "verify", "kid": "text"},
    ]
    own = CI.as_public_jwk() | {"key_ops": ["verify"]}
    assert list(Keys.parse(jwks(*others, own)).by_id) == [CI.id]


def test_a_key_survives_a_round_trip_and_has_the_same_id_from_pem() -> None:
    assert SigningKey.parse(json.dumps(ALICE.as_jwk()), "k.json").as_jwk() == ALICE.as_jwk()
    again = SigningKey.parse(json.dumps(CI.as_jwk()), "k.json")
    assert (again.id, again.algorithm, again.subject) == (CI.id, "ES256", None)
    # RFC 8037, appendix A.3: the thumbprint of the key of appendix A.1.
    rfc = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    assert SigningKey.parse(json.dumps(rfc), "rfc").id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither a private key in PEM nor a private JWK"),
        ("{}", "not a private key"),
        ("{", "not a private JWK"),
        (json.dumps(ALICE.as_public_jwk()), "not a private key"),
        (json.dumps(ALICE.as_jwk() | {"kty": "oct"}), "not a private JWK"),
        (json.dumps(ALICE.as_jwk() | {"kid": "a b"}), "kid is not"),
        (pem(RSA), "Ed25519 (EdDSA) or P-256 (ES256)"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "Ed25519 (EdDSA) or P-256 (ES256)"),
        (
            CI.private.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hidden")
            ).decode(),
            "encrypted",
        ),
    ],
    ids=without_keys,
)  # fmt: skip
def test_a_private_key_that_cannot_sign_is_refused_without_repeating_it(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        SigningKey.parse(text, "key.pem")
    assert problem in caught.value.message
    assert ALICE.as_jwk()["d"] not in caught.value.message + caught.value.hint


def test_the_repr_of_a_key_does_not_reveal_it() -> None:
    assert ALICE.as_jwk()["d"] not in f"{ALICE!r} {replace(ALICE)}"


def test_the_payload_is_strict_json() -> None:
    assert load('{"a": 1}') == [("a", 1)]
    for text in ('{"devroute": NaN}', json.dumps(PAYLOAD) + "x", "[" * 5000):
        with pytest.raises(ContractInvalid, match="payload"):
            verify(token(text), KEYS)


def test_contracts_live_for_a_day_at_most_by_default() -> None:
    raw = token(PAYLOAD | {"exp": NOW + int(MAX_TTL_S)})
    assert verify(raw, KEYS).signature is not None
    with pytest.raises(ContractUntrusted, match="at most 2 h"):
        verify(raw, KEYS, 7200)
