"""An OIDC issuer on loopback for tests: keys, tokens, and a real server for discovery and JWKS."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "devroute.test"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class SigningKey:
    """A private key of an issuer; `jwk` is its public half."""

    def __init__(self, kid: str | None = "one", algorithm: str = "EdDSA", bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: PrivateKey
        if algorithm == "RS256":
            self.private = rsa.generate_private_key(65537, bits)
            self.jwk: dict[str, Any] = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        elif algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
            self.jwk = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()
            self.jwk = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk.pop("key_ops", None)
        if kid is not None:
            self.jwk["kid"] = kid

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.private, self.algorithm, headers=named | header)

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwks(*keys: SigningKey) -> str:
    return json.dumps({"keys": [key.jwk for key in keys]})


class Issuer:
    """Serves `keys` unless it is `down`; `asked` lists the paths that were requested."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.down = False
        self.asked: list[str] = []
        self.url = ""
        self.answer: web.Response | None = None

    def claims(self, subject: str = "alice", **changes: Any) -> dict[str, Any]:
        """The claims of a valid token; a change to None leaves a claim out."""
        now = time.time()
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, subject: str = "alice", *, key: SigningKey | None = None, **changes: Any) -> str:
        return (key or self.keys[0]).sign(self.claims(subject, **changes))

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.down:
            return web.Response(status=503)
        if request.path.endswith("/openid-configuration"):
            return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        if self.answer is not None:
            return self.answer
        return web.Response(text=jwks(*self.keys), content_type="application/json")


@asynccontextmanager
async def issuing(*keys: SigningKey) -> AsyncIterator[Issuer]:
    issuer = Issuer(*(keys or (SigningKey(),)))
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
