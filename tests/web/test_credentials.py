"""Keys and JSON Web Tokens: whose they are, and every forgery that is not taken."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streaming.access_settings import ApiKey, api_keys
from streaming.jwt_keys import public_keys
from streaming.settings import Settings, SettingsError
from streaming.web.credentials import ApiKeys, Tokens

SECRET = "s" * 32
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwks(**keys: Any) -> str:
    entries = []
    for kid, key in keys.items():
        is_rsa = isinstance(key, rsa.RSAPrivateKey)
        kind = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
        entries.append({**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": entries})


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **claims: Any) -> str:
    body = {"sub": "alice", "exp": time.time() + 600, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def tokens(secret: str = SECRET, public_key: str = "", audience: str = "", issuer: str = "") -> Tokens:
    return Tokens(secret=secret, public_key=public_key, audience=audience, issuer=issuer)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_is_whose_name_it_has() -> None:
    keys = ApiKeys(api_keys(["alice:a-0123456789abcdef", "bob@pro:b-0123456789abcdef", "c-0123456789abcdef"]))
    alice, bob, nameless = (keys.caller(f"{letter}-0123456789abcdef") for letter in "abc")
    assert alice is not None
    assert (alice.kind, alice.owner, alice.account, alice.tier) == ("known", "key:alice", "key:alice", None)
    assert bob is not None
    assert (bob.owner, bob.tier) == ("key:bob", "pro")
    assert nameless is not None
    assert nameless.owner == f"key:key-{hashlib.sha256(b'c-0123456789abcdef').hexdigest()[:8]}"
    assert [keys.caller(each) for each in ("", "a-0123456789abcde", "a-0123456789abcdefg", "é")] == [None] * 4


def test_no_key_is_in_a_repr() -> None:
    assert "0123456789abcdef" not in repr(ApiKey("a", None, "0123456789abcdef"))
    settings = Settings.from_env({"API_KEYS": "0123456789abcdef", "SECRET_KEY": SECRET, "JWT_SECRET": SECRET})
    assert "0123456789abcdef" not in repr(settings)
    assert SECRET not in repr(settings)


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_its_subjects_at_its_issuer() -> None:
    caller = tokens().caller(token(tier="pro"))
    assert caller is not None
    assert (caller.kind, caller.owner, caller.tier) == ("known", 'jwt:[null,"alice"]', "pro")
    issued = tokens().caller(token(iss="https://login.example.com"))
    assert issued is not None
    assert issued.owner == 'jwt:["https://login.example.com","alice"]'


def test_what_a_token_must_have() -> None:
    now = time.time()
    assert tokens().caller(token(exp=now - 5)) is not None  # clocks differ
    bad = [
        token(exp=now - 60),
        token(exp=None),
        token(sub=None),
        token(sub=""),
        token(sub="x" * 257),
        token(nbf=now + 60),
        token(aud="another service"),
        token(key="t" * 32),
        token() + "x",
        "a.b.c",
        "",
        "é",
    ]
    assert [tokens().caller(each) for each in bad] == [None] * len(bad)


def test_audience_and_issuer_are_asked_for_where_they_are_set() -> None:
    strict = tokens(audience="sluice", issuer="https://login.example.com")
    good = {"aud": ["sluice", "others"], "iss": "https://login.example.com"}
    assert strict.caller(token(**good)) is not None
    for wrong in ({"aud": None}, {"aud": "other"}, {"iss": None}, {"iss": "https://evil.example"}):
        assert strict.caller(token(**{**good, **wrong})) is None


def test_public_keys_take_what_their_owners_signed() -> None:
    for key, algorithm in ((RSA_KEY, "RS256"), (RSA_KEY, "PS512"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")):
        known = tokens("", pem(key))
        assert known.caller(token(key, algorithm)) is not None
        assert known.caller(token(key, algorithm, kid="whatever")) is not None
    assert tokens("", pem(RSA_KEY)).caller(token(rsa.generate_private_key(65537, 2048), "RS256")) is None


def test_a_jwks_tells_which_key_is_meant() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    known = tokens("", jwks(r=RSA_KEY, e=EC_KEY))
    assert known.caller(token(RSA_KEY, "RS256", kid="r")) is not None
    assert known.caller(token(EC_KEY, "ES256", kid="e")) is not None
    assert known.caller(token(EC_KEY, "ES256", kid="r")) is None
    assert known.caller(token(EC_KEY, "ES256")) is None
    assert known.caller(token(other, "ES256", kid="e")) is None


def forged(header: dict[str, Any], secret: bytes = b"") -> str:
    """Return a token that a library which believes `alg` would take."""
    parts = [header, {"sub": "alice", "exp": int(time.time()) + 600}]
    body = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, body, hashlib.sha256).digest() if secret else b""
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_a_token_does_not_choose_how_it_is_checked() -> None:
    public = pem(RSA_KEY)
    assert tokens().caller(forged({"alg": "HS256"}, SECRET.encode())) is not None  # the forger's tools work
    assert tokens().caller(forged({"alg": "none"})) is None
    assert tokens("", public).caller(forged({"alg": "none"})) is None
    for text in (public, public.strip()):
        assert tokens("", public).caller(forged({"alg": "HS256"}, text.encode())) is None
    assert tokens("", public).caller(forged({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}, b"\0\0\0")) is None


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "{}",
        '{"keys": []}',
        '{"keys": [1]}',
        '{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        "{",
        "words",
    ],
)
def test_what_is_no_public_key_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(this|a key|the)"):
        public_keys(text)
    with pytest.raises(SettingsError, match=r"^JWT_PUBLIC_KEY \(not shown\)"):
        Settings.from_env({"JWT_PUBLIC_KEY": text})


def test_a_private_or_a_weak_key_is_refused() -> None:
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY))
    with pytest.raises(ValueError, match="not public"):
        public_keys(json.dumps({"keys": [private]}))
    with pytest.raises(ValueError, match="2048 bits"):
        public_keys(pem(rsa.generate_private_key(65537, 1024)))


def test_a_key_may_be_one_line_a_file_or_a_document(tmp_path: Any) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem(ED_KEY))
    for text in (pem(ED_KEY).replace("\n", "\\n"), str(file), jwks(e=EC_KEY)):
        assert Settings.from_env({"JWT_PUBLIC_KEY": text}).jwt_public_key
