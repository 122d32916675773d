"""JWT_PUBLIC_KEY: one public key in PEM, or several in a JWKS document. Imported only where a JWT setting is set."""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
EDWARDS = ("EdDSA",)
RSA_MIN_BITS = 2048  # RFC 7518 §3.3

PublicKey = tuple[Any, tuple[str, ...]]
"""A key, and the algorithms that it can be meant for. What a token's own header says decides nothing else: a public
key taken for an HS256 secret is the oldest forgery there is."""


def public_keys(text: str) -> dict[str | None, PublicKey]:
    """Return the keys by their `kid`, None = a key without one. Raises ValueError."""
    if not text.startswith("{"):
        return {None: _with_algorithms(_from_pem(text))}
    try:
        entries = json.loads(text)["keys"]
        parsed = [(each.get("kid"), jwt.PyJWK(each).key) for each in entries if each.get("use", "sig") == "sig"]
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError):
        raise ValueError("this is no JWKS document") from None
    if not parsed:
        raise ValueError("the JWKS document has no key for signatures")
    return {kid: _with_algorithms(key) for kid, key in parsed}


def _from_pem(text: str) -> Any:
    try:
        return load_pem_public_key(text.encode())
    except ValueError:
        raise ValueError("this is no public key in PEM") from None


def _with_algorithms(key: Any) -> PublicKey:
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_MIN_BITS:
            raise ValueError(f"an RSA key has {RSA_MIN_BITS} bits or more")
        return key, RSA
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key, CURVES[key.curve.name]
    if isinstance(key, Ed25519PublicKey):
        return key, EDWARDS
    raise ValueError("a key is none of RSA, P-256, P-384, P-521 and Ed25519, or not public")
