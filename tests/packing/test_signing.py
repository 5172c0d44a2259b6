"""A signature holds for what was signed and for nothing else, and the private key is never told."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing.cli import main
from packing.errors import StorageError, UsageError
from packing.in_memory import MemoryStorage, MemoryTracker
from packing.parallel import serial
from packing.pipeline import Refresh, refresh
from packing.ports import Buffer, ObjectInfo
from packing.recipe import recipe_uri
from packing.report import RefreshRecord
from packing.signing import PublicKey, SigningKey, check_signature, signature_uri
from packing.types import Parameters
from tests.builders import random_sizes, raw_shard, stages_of, store_with

PARAMETERS = Parameters(max_sequence_length=64, max_predictions_per_sequence=10)


def private_pem(key: Any, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


OWN, OTHER = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
KEY = SigningKey.from_pem(private_pem(OWN), "own")
ANOTHER = SigningKey.from_pem(private_pem(OTHER), "other")


def made(storage: MemoryStorage, destination: str = "/out", **options: Any) -> Refresh:
    stages = stages_of(serial(storage))
    return refresh(storage, stages, "/raw", destination, PARAMETERS, **{"key": KEY, **options})


def raw_store() -> MemoryStorage:
    return store_with({f"part-{i}": raw_shard(random_sizes(10, seed=i), seed=i) for i in range(2)})


@pytest.fixture(scope="module")
def signed() -> tuple[MemoryStorage, Refresh]:
    storage = raw_store()
    return storage, made(storage)


def altered(storage: MemoryStorage, uri: str, content: bytes | None) -> MemoryStorage:
    copy = MemoryStorage()
    copy.objects = {**storage.objects}
    if content is None:
        del copy.objects[uri]
    else:
        copy.objects[uri] = content
    return copy


def parts(outcome: Refresh) -> dict[str, str]:
    recipe_id = outcome.recipe.recipe_id
    return {
        "recipe": recipe_uri("/out", recipe_id),
        "manifest": outcome.manifest_uri,
        "signature": signature_uri("/out", recipe_id),
    }


def test_what_was_signed_is_found_signed(signed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = signed
    check = check_signature(storage, outcome.manifest_uri, KEY.public)
    assert check.passed, check.detail
    assert KEY.public.fingerprint in check.detail
    document = json.loads(storage.objects[parts(outcome)["signature"]])
    assert document["statement"].startswith("stowage recipe signature 1\nrecipe_id ")
    assert (document["algorithm"], document["key"]) == ("ed25519", KEY.public.fingerprint)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_of_recipe_or_manifest_is_found(
    data: st.DataObject, signed: tuple[MemoryStorage, Refresh]
) -> None:
    storage, outcome = signed
    uri = parts(outcome)[data.draw(st.sampled_from(["recipe", "manifest"]))]
    content = bytearray(storage.objects[uri])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    check = check_signature(altered(storage, uri, bytes(content)), outcome.manifest_uri, KEY.public)
    assert not check.passed
    assert "was altered" in check.detail


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_signature_is_none(data: st.DataObject, signed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = signed
    uri = parts(outcome)["signature"]
    document = json.loads(storage.objects[uri])
    raw = bytearray(base64.b64decode(document["signature"]))
    assert len(raw) == 64
    raw[data.draw(st.integers(0, 63))] ^= data.draw(st.integers(1, 255))
    document["signature"] = base64.b64encode(raw).decode()
    changed = altered(storage, uri, json.dumps(document).encode())
    assert not check_signature(changed, outcome.manifest_uri, KEY.public).passed


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"no json", b'{"algorithm": "none", "key": "", "signature": "", "statement": ""}'],
)
def test_a_file_that_is_no_signature_is_refused(content: bytes, signed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = signed
    uri = parts(outcome)["signature"]
    check = check_signature(altered(storage, uri, content), outcome.manifest_uri, KEY.public)
    assert not check.passed
    assert f"{uri}: not a signature" in check.detail


def test_each_missing_part_is_named(signed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = signed
    for uri in parts(outcome).values():
        check = check_signature(altered(storage, uri, None), outcome.manifest_uri, KEY.public)
        assert not check.passed
        assert f"{uri}: no such object" in check.detail


def test_another_keys_signature_is_not_this_ones(signed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = signed
    check = check_signature(storage, outcome.manifest_uri, ANOTHER.public)
    assert not check.passed
    assert f"signed by another key, {KEY.public.fingerprint}" in check.detail
    forged = json.loads(storage.objects[parts(outcome)["signature"]])
    recipe, manifest = (storage.objects[parts(outcome)[name]] for name in ("recipe", "manifest"))
    other = json.loads(ANOTHER.sign(outcome.recipe.recipe_id, recipe, manifest).document)
    forged["signature"] = other["signature"]  # under the name of the right key
    changed = altered(storage, parts(outcome)["signature"], json.dumps(forged).encode())
    assert not check_signature(changed, outcome.manifest_uri, KEY.public).passed


def test_one_recipes_signature_is_not_anothers(signed: tuple[MemoryStorage, Refresh]) -> None:
    """Neither under its own name nor with all three files put in its place."""
    storage, outcome = signed
    target = "0" * 64
    copy = altered(storage, "/unused", b"")
    for name, uri in parts(outcome).items():
        copy.objects[uri.replace(outcome.recipe.recipe_id, target)] = copy.objects[parts(outcome)[name]]
    check = check_signature(copy, f"/out/manifests/{target}.json", KEY.public)
    assert not check.passed
    assert f"recipe_id {target}" in check.detail


def test_the_signature_is_stored_before_the_manifest() -> None:
    class Refusing(MemoryStorage):
        def write(self, uri: str, data: Buffer) -> ObjectInfo:
            if uri.endswith(".sig.json"):
                raise StorageError(f"{uri}: disk full")
            return super().write(uri, data)

    storage = Refusing()
    storage.objects = raw_store().objects
    with pytest.raises(StorageError, match="disk full"):
        made(storage)
    assert not [uri for uri in storage.objects if "/manifests/" in uri]


def test_a_dataset_that_is_found_complete_is_not_signed_later() -> None:
    """Who signs vouches for what was made, not for what lies there."""
    storage = raw_store()
    outcome = made(storage, key=None)
    assert made(storage).unchanged
    check = check_signature(storage, outcome.manifest_uri, KEY.public)
    assert not check.passed
    assert "no such object" in check.detail
    storage.delete(outcome.manifest_uri)
    again = made(storage)
    assert (again.unchanged, again.partitions_written) == (False, 0)
    assert check_signature(storage, outcome.manifest_uri, KEY.public).passed


def test_openssl_alone_checks_a_signature(signed: tuple[MemoryStorage, Refresh], tmp_path: Path) -> None:
    """The commands of docs/audit.md, as they stand there."""
    storage, outcome = signed
    files = {"recipe": "recipe.json", "manifest": "manifest.json", "signature": "recipe.sig.json"}
    for name, uri in parts(outcome).items():
        (tmp_path / files[name]).write_bytes(storage.objects[uri])
    (tmp_path / "public.pem").write_bytes(public_pem(OWN))
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    (block,) = re.findall(r"```sh\n(RECIPE_ID=.*?)```", text, re.DOTALL)
    script = block.replace("RECIPE_ID=...", f"RECIPE_ID={outcome.recipe.recipe_id}")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout
    for name in ("recipe.json", "manifest.json"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(kept.replace(b"1", b"2", 1))
        assert run().returncode != 0
        (tmp_path / name).write_bytes(kept)
    assert run().returncode == 0
    (tmp_path / "public.pem").write_bytes(public_pem(OTHER))
    assert run().returncode != 0


def test_openssl_makes_the_keys(tmp_path: Path) -> None:
    """The commands of docs/audit.md, as they stand there."""
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    (block,) = re.findall(r"```sh\n(openssl genpkey.*?)```", text, re.DOTALL)
    done = subprocess.run(["sh", "-ec", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    key = SigningKey.from_pem((tmp_path / "private.pem").read_bytes(), "private.pem")
    public = PublicKey.from_pem((tmp_path / "public.pem").read_bytes(), "public.pem")
    assert public.fingerprint == key.public.fingerprint
    assert public.fingerprint.removeprefix("sha256:") in done.stdout
    assert (tmp_path / "private.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line_end", [" ", "\\n", "\r\n", "\n \n"])
def test_a_form_that_takes_line_ends_away_does_no_harm(line_end: str) -> None:
    for pem in (private_pem(OWN), private_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))):
        text = pem.replace(b"\n", line_end.encode())
        if pem == private_pem(OWN):
            assert SigningKey.from_pem(text, "it").public.fingerprint == KEY.public.fingerprint
        else:
            with pytest.raises(UsageError, match="it: expected an Ed25519 private key, found RSAPrivateKey"):
                SigningKey.from_pem(text, "it")


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "expected an Ed25519 private key in PEM, found something else"),
        (b"\xff\x00canary", "expected an Ed25519 private key in PEM, found something else"),
        (b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n", "in PEM, found something else"),
        (public_pem(OWN), "expected an Ed25519 private key in PEM, found something else"),
        (private_pem(OWN, b"canary"), "without a passphrase"),
    ],
)
def test_what_is_no_private_key_is_said_and_not_shown(pem: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=f"^the key: .*{message}") as caught:
        SigningKey.from_pem(pem, "the key")
    shown = "".join(traceback.format_exception(caught.value))
    assert "canary" not in shown


@pytest.mark.parametrize("pem", [b"", b"text", private_pem(OWN)])
def test_what_is_no_public_key_is_said(pem: bytes) -> None:
    with pytest.raises(UsageError, match=r"^it: expected an Ed25519 public key in PEM, found something else"):
        PublicKey.from_pem(pem, "it")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(UsageError, match=r"^it: expected an Ed25519 public key, found RSAPublicKey"):
        PublicKey.from_pem(public_pem(other), "it")


def secrets_of(pem: bytes) -> set[str]:
    """The forms in which a key could leak: the lines of its PEM, its 32 bytes in hexadecimal and base64."""
    raw = OWN.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    body = "".join(pem.decode().splitlines()[1:-1])
    return {body, body[-43:], raw.hex(), base64.b64encode(raw).decode(), str(raw)}


def test_the_private_key_reaches_neither_store_nor_tracker_nor_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    storage, tracker = raw_store(), MemoryTracker()
    record = RefreshRecord(storage, tracker, "/raw", "/out", {})
    outcome = made(storage, on_recipe=record.add_recipe, on_manifest=record.add_manifest)
    record.mark_committed(outcome.recipe)
    (run,) = tracker.runs.values()
    assert run.tags["stowage.signed_by"] == KEY.public.fingerprint
    assert run.artifacts["recipe/recipe.sig.json"] == storage.objects[parts(outcome)["signature"]]
    told = [repr(KEY), repr(vars(run)), repr(tracker.registered), caplog.text]
    told += [content.decode("latin-1") for content in (*storage.objects.values(), *run.artifacts.values())]
    assert KEY.public.fingerprint in "".join(told)
    assert not [secret for secret in secrets_of(private_pem(OWN)) for text in told if secret in text]


def test_the_commands_sign_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "part-0").write_bytes(raw_shard(random_sizes(10, seed=0)))
    for name, pem in (("own", private_pem(OWN)), ("public", public_pem(OWN)), ("other", public_pem(OTHER))):
        (tmp_path / name).write_bytes(pem)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--workers", "1", "--json"])
        captured = capsys.readouterr()
        assert not [secret for secret in secrets_of(private_pem(OWN)) if secret in captured.out + captured.err]
        return status, captured.out, captured.err

    run = (
        "run",
        str(raw),
        str(tmp_path / "out"),
        "--max-sequence-length",
        "64",
        "--max-predictions-per-sequence",
        "10",
    )
    status, _, errors = command(*run, "--signing-key", str(tmp_path / "public"))
    assert (status, "expected an Ed25519 private key" in errors) == (2, True)
    status, _, errors = command(*run, "--signing-key", str(tmp_path / "none"))
    assert (status, "cannot be read" in errors) == (2, True)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("STOWAGE_SIGNING_KEY", private_pem(OWN).decode())
    status, out, _ = command(*run)
    assert status == 0
    manifest = json.loads(out.splitlines()[-1])["manifest"]
    checks = (("verify", manifest), ("audit", manifest, "--source", str(raw)))
    for check in checks:
        assert command(*check)[0] == 0
        status, out, _ = command(*check, "--public-key", str(tmp_path / "public"))
        assert (status, "ok      signature: " in out) == (0, True)
        status, out, _ = command(*check, "--public-key", str(tmp_path / "other"))
        assert (status, "FAILED  signature: " in out) == (4, True)
        assert command(*check, "--public-key", str(tmp_path / "own"))[0] == 2
    next((tmp_path / "out" / "recipes").glob("*.sig.json")).unlink()
    for check in checks:
        assert command(*check, "--public-key", str(tmp_path / "public"))[0] == 4
