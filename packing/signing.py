"""Signatures of recipes, by which an auditor knows who vouches for what is stored beside its own digests.

Signed is a short text, the statement, with Ed25519 (RFC 8032). It names a recipe and states the SHA-256 of the recipe's
and of the manifest's stored bytes; with these it covers statistics, certificate, lineage, and the digests of the packed
shards. Its first line says what it is, so that no signature of anything else passes for one.

The signature is stored before the manifest: a dataset that exists was signed by the refresh that made it. Whoever can
write to the store can alter what a refresh reads and reuses before that; `packing audit` derives all of it again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packing.documents import read_document
from packing.errors import InputError, ObjectNotFoundError, UsageError, VerificationError
from packing.jsonio import pretty
from packing.lineage import destination_of
from packing.ports import Storage
from packing.recipe import recipe_uri
from packing.shape import TEXT, Shape, exactly, shape_problems
from packing.verify import Check

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT = "stowage recipe signature 1"
ALGORITHM = "ed25519"

_SHAPE: Shape = {"algorithm": exactly(ALGORITHM), "key": TEXT, "signature": TEXT, "statement": TEXT}
_PEM = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]+)-----(.*)-----END \1-----\s*", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key; `fingerprint` is the SHA-256 of its DER form (SubjectPublicKeyInfo)."""

    key: Ed25519PublicKey
    fingerprint: str

    @classmethod
    def from_pem(cls, text: bytes, name: str) -> PublicKey:
        """Raises UsageError, naming `name`, if the text is no Ed25519 public key in PEM."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(_mended(text))
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise UsageError(f"{name}: expected an Ed25519 public key in PEM, found something else") from exc
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{name}: expected an Ed25519 public key, found {type(key).__name__.lstrip('_')}")
        return cls(key, _fingerprint(key))


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key. Neither it nor what it was read from is ever part of a message."""

    key: Ed25519PrivateKey = field(repr=False)
    public: PublicKey

    @classmethod
    def from_pem(cls, text: bytes, name: str) -> SigningKey:
        """Raises UsageError, naming `name`, if the text is no Ed25519 private key in PEM without a passphrase."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_mended(text), password=None)
        except TypeError as exc:
            raise UsageError(f"{name}: expected a private key without a passphrase; keep it in a secret store") from exc
        except (ValueError, UnsupportedAlgorithm):
            # Without its cause, which may quote what it could not read.
            raise UsageError(f"{name}: expected an Ed25519 private key in PEM, found something else") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{name}: expected an Ed25519 private key, found {type(key).__name__.lstrip('_')}")
        return cls(key, PublicKey(key.public_key(), _fingerprint(key.public_key())))

    def sign(self, recipe_id: str, recipe: bytes, manifest: bytes) -> Signature:
        """Sign a recipe and its manifest, given as they are stored."""
        text = statement(recipe_id, recipe, manifest)
        document = {
            "algorithm": ALGORITHM,
            "key": self.public.fingerprint,
            "signature": base64.b64encode(self.key.sign(text.encode())).decode(),
            "statement": text,
        }
        return Signature(self.public.fingerprint, pretty(document))


@dataclass(frozen=True)
class Signature:
    """The `document` that is stored beside a recipe, and the fingerprint of the key that signed."""

    signed_by: str
    document: bytes


def statement(recipe_id: str, recipe: bytes, manifest: bytes) -> str:
    """What is signed, of a recipe's and a manifest's stored bytes."""
    digests = [hashlib.sha256(content).hexdigest() for content in (recipe, manifest)]
    return f"{CONTEXT}\nrecipe_id {recipe_id}\nrecipe sha256 {digests[0]}\nmanifest sha256 {digests[1]}\n"


def signature_uri(destination: str, recipe_id: str) -> str:
    """Where a destination keeps the signature of a recipe."""
    return recipe_uri(destination, recipe_id).removesuffix(".json") + ".sig.json"


def check_signature(storage: Storage, manifest_uri: str, public: PublicKey) -> Check:
    """Whether the manifest and the recipe beside it are those that the owner of this key signed."""
    destination, recipe_id = destination_of(manifest_uri), manifest_uri.rpartition("/")[2].removesuffix(".json")
    uri = signature_uri(destination, recipe_id)
    try:
        signed = storage.read(recipe_uri(destination, recipe_id)), storage.read(manifest_uri)
        _verify(public, _read_signature(storage, uri), uri, statement(recipe_id, *signed))
    except (ObjectNotFoundError, InputError, VerificationError) as exc:
        return Check("signature", passed=False, detail=f"not signed by {public.fingerprint}: {exc}")
    return Check("signature", passed=True, detail=f"{uri}: recipe and manifest are as {public.fingerprint} signed them")


def _read_signature(storage: Storage, uri: str) -> Mapping[str, Any]:
    document = read_document(storage, uri, "signature")
    if problems := list(shape_problems(document, _SHAPE)):
        raise InputError(f"{uri}: not a signature ({'; '.join(problems)})")
    return document


def _verify(public: PublicKey, document: Mapping[str, Any], uri: str, expected: str) -> None:
    """The statement is made anew from what is stored; the one in the document only says what differs."""
    from cryptography.exceptions import InvalidSignature

    try:
        public.key.verify(base64.b64decode(document["signature"], validate=True), expected.encode())
    except (InvalidSignature, ValueError) as exc:
        if document["key"] != public.fingerprint:
            raise VerificationError(f"{uri}: signed by another key, {document['key']}") from exc
        stated = document["statement"].splitlines()
        differing = [line for line in expected.splitlines() if line not in stated]
        found = f"now it is: {'; '.join(differing)}" if differing else "the signature is of something else"
        raise VerificationError(f"{uri}: recipe, manifest or signature was altered ({found})") from exc


def _fingerprint(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _mended(text: bytes) -> bytes:
    r"""PEM with the line ends that a form's field of one line takes away, or turns into `\n` of two characters."""
    found = _PEM.fullmatch(text.decode("ascii", "replace").replace("\\n", "\n"))
    if not found:
        return text
    body = "\n".join(re.findall(r"\S{1,64}", "".join(found[2].split())))
    return f"-----BEGIN {found[1]}-----\n{body}\n-----END {found[1]}-----\n".encode("ascii", "replace")
