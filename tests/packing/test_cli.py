"""The commands as a shell sees them: what they print and their exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from packing.cli import main
from packing.tfrecord import encode_record
from tests.builders import random_sizes, raw_shard

LIMITS = ("--max-sequence-length", "64", "--max-predictions-per-sequence", "10", "--workers", "1")


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(3):
        (folder / f"part-{number}").write_bytes(raw_shard(random_sizes(20, seed=number), seed=number))
    return folder


def status_and_result(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object], str]:
    status = main(arguments)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return status, json.loads(lines[-1]) if "--json" in arguments and lines else {}, captured.err


def test_run_then_verify(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, result, _ = status_and_result(capsys, "run", str(raw), str(tmp_path / "out"), *LIMITS, "--json")
    assert status == 0
    assert result["sequences"] == 60
    assert result["gap"] == result["packs"] - result["lower_bound"]  # type: ignore[operator]
    assert {"recipe_id", "packing_efficiency", "packing_factor"} <= set(result)
    manifest = str(result["manifest"])
    assert Path(manifest).is_absolute()
    status, verified, _ = status_and_result(
        capsys, "verify", manifest, "--source", str(raw), "--json", "--workers", "1"
    )
    assert (status, verified["verified"]) == (0, True)
    shard = next((tmp_path / "out" / "shards").rglob("part-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    status, verified, errors = status_and_result(capsys, "verify", manifest, "--json", "--workers", "1")
    assert (status, verified["verified"]) == (4, False)
    assert str(shard) in errors


def test_run_then_audit(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = encode_record(b"no example")
    (raw / "part-1").write_bytes((raw / "part-1").read_bytes() + bad)
    run = ("run", str(raw), str(tmp_path / "out"), *LIMITS, "--json")
    status, failed, _ = status_and_result(capsys, *run)
    assert (status, failed["exit_status"]) == (3, 3)
    assert f"{raw}/part-1: record 20 at offset " in str(failed["error"])
    status, result, _ = status_and_result(capsys, *run, "--max-rejected", "1")
    assert (status, result["sequences"], result["rejected"]) == (0, 60, 1)
    audit = ("audit", str(result["manifest"]), "--source", str(raw), "--workers", "1", "--json")
    status, audited, _ = status_and_result(capsys, *audit)
    assert (status, audited["audited"]) == (0, True)
    assert len(audited["checks"]) == 12  # type: ignore[arg-type]  # a list
    (raw / "part-9").write_bytes((raw / "part-0").read_bytes())
    assert status_and_result(capsys, *audit)[0] == 4
    listed = tmp_path / "listed.json"
    for text, expected in (('["part-0", "part-1", "part-2"]', 0), ("[1]", 2), ("{}", 2), ("part-0", 2)):
        listed.write_text(text)
        assert status_and_result(capsys, *audit, "--listed", str(listed))[0] == expected
    (raw / "part-9").unlink()
    (raw / "part-1").write_bytes((raw / "part-0").read_bytes())
    status, audited, errors = status_and_result(capsys, *audit)
    assert (status, audited["audited"]) == (4, False)
    assert "raw shards as listed" in errors


def test_scan_counts_what_it_leaves_out(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("part-0", "part-2"):
        (raw / name).write_bytes(encode_record(b"no example") + (raw / name).read_bytes())
    scan = ("scan", str(raw), "--workers", "1", "--json", "--max-rejected")
    status, result, _ = status_and_result(capsys, *scan, "2")
    assert (status, result["sequences"], result["rejected"]) == (0, 60, 2)
    assert status_and_result(capsys, *scan, "1")[0] == 3


def test_a_run_says_whether_it_changed_what_is_current(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", str(raw), str(tmp_path / "out"), *LIMITS, "--workers", "1")

    def outcome() -> tuple[object, object, str]:
        assert main([*run, "--json"]) == 0
        *table, line = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        (words,) = (row.split(maxsplit=1)[1] for row in table if row.startswith("outcome"))
        return result["unchanged"], result["returned"], words

    content = (raw / "part-2").read_bytes()
    assert outcome() == (False, False, "the packed dataset was refreshed")
    (raw / "part-2").unlink()
    assert outcome() == (False, False, "the packed dataset was refreshed")
    (raw / "part-2").write_bytes(content)
    assert outcome() == (True, True, "an earlier packed dataset is current again")
    assert outcome() == (True, False, "nothing changed")


def test_a_relative_path_and_another_working_directory_find_the_same_dataset(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, result, _ = status_and_result(capsys, "run", "raw", "out/", *LIMITS, "--json")
    monkeypatch.chdir(raw)
    status, again, _ = status_and_result(capsys, "run", ".", "../out", *LIMITS, "--json")
    assert status == 0
    assert again["recipe_id"] == result["recipe_id"]


def test_scan_prints_a_histogram_that_solve_takes(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, scanned, _ = status_and_result(capsys, "scan", str(raw), "--json", "--workers", "1")
    assert (status, scanned["sequences"], scanned["shards"]) == (0, 60, 3)
    (tmp_path / "histogram.json").write_text(json.dumps(scanned))
    recipe = tmp_path / "recipe.json"
    options = ("--histogram", str(tmp_path / "histogram.json"), "--recipe", str(recipe), "--json")
    status, solved, _ = status_and_result(capsys, "solve", *options)
    assert (status, solved["sequences"]) == (0, 60)
    assert json.loads(recipe.read_text())["recipe_id"] == solved["recipe_id"]


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "[]",
        '{"counts": [1, 2]}',
        '{"max_sequence_length": 3, "counts": [1, 2]}',
        '{"max_sequence_length": 2, "counts": [1, -2]}',
        '{"max_sequence_length": 2, "counts": [1, 0.5]}',
        '{"max_sequence_length": 2, "counts": [0, 0]}',
        '{"max_sequence_length": 0, "counts": []}',
    ],
)
def test_a_histogram_that_is_none_is_bad_input(
    document: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "histogram.json"
    path.write_text(document)
    status, _, errors = status_and_result(
        capsys, "solve", "--histogram", str(path), "--recipe", str(tmp_path / "recipe.json")
    )
    assert status == 3
    assert errors.startswith(f"error: {path}")
    assert not (tmp_path / "recipe.json").exists()


def test_bad_data_ends_with_status_3_and_one_line(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = raw / "part-1"
    bad.write_bytes(bad.read_bytes()[:-5])
    status, _, errors = status_and_result(capsys, "run", str(raw), str(tmp_path / "out"), *LIMITS)
    assert status == 3
    (line,) = [line for line in errors.splitlines() if line.startswith("error")]
    assert f"{bad}: record 19 at offset " in line
    assert not (tmp_path / "out" / "manifests").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "RAW", "OUT", "--max-sequences-per-pack", "0"), 2),
        (("run", "RAW", "OUT", "--workers", "0"), 2),
        (("run", "RAW", "RAW/packed"), 2),
        (("run", "ftp://host/raw", "OUT"), 2),
        (("run", "s3://", "OUT"), 2),
        (("run", "EMPTY", "OUT", "--workers", "1"), 3),
        (("run", "RAW", "OUT", "--workers", "1", "--max-sequence-length", "20"), 3),
        (("verify", "RAW/none.json"), 5),
        (("verify", "RAW/part-0", "--workers", "1"), 4),
    ],
)
def test_exit_statuses(
    arguments: Sequence[str], expected: int, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RAW": str(raw), "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    for short, place in places.items():
        arguments = [argument.replace(short, place) for argument in arguments]
    status, _, errors = status_and_result(capsys, *arguments)
    assert status == expected
    assert errors.splitlines()[-1].startswith("error: ")


def test_unknown_options_are_wrong_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "a", "b", "--sovler", "optimal"])
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.usefixtures("aws_environment")
def test_an_s3_store_from_the_shell(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from packing.adapters import open_storage

    for path in raw.iterdir():
        open_storage().write(f"s3://raw/{tmp_path.name}/{path.name}", path.read_bytes())
    source, destination = f"s3://raw/{tmp_path.name}", f"s3://packed/{tmp_path.name}"
    status, result, _ = status_and_result(capsys, "run", source, destination, *LIMITS, "--json", "--workers", "2")
    assert status == 0
    status, _, _ = status_and_result(capsys, "verify", str(result["manifest"]), "--source", source)
    assert status == 0

    status, _, errors = status_and_result(capsys, "run", "s3://no-such-bucket/x", destination, *LIMITS)
    assert status == 5
    assert "no such bucket" in errors
    status, _, errors = status_and_result(capsys, "run", f"{source}/nothing", destination, *LIMITS)
    assert status == 3
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    status, _, errors = status_and_result(capsys, "run", source, destination, *LIMITS)
    assert status == 5
    assert "refused access" in errors
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    status, _, errors = status_and_result(capsys, "run", source, destination, *LIMITS)
    assert status == 5
    assert "127.0.0.1:9" in errors


@pytest.mark.slow
def test_a_tracking_server_that_is_away_ends_with_status_5(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = str(tmp_path / "out")
    status, _, errors = status_and_result(
        capsys, "run", str(raw), destination, *LIMITS, "--tracking-uri", "http://127.0.0.1:9"
    )
    assert status == 5
    assert "127.0.0.1:9" in errors


def test_a_dry_run_predicts_the_run_and_stores_nothing(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", str(raw), str(tmp_path / "out"), *LIMITS, "--json")
    status, foreseen, _ = status_and_result(capsys, *run, "--dry-run")
    assert (status, foreseen["exact"], foreseen["sequences"]) == (0, True, 60)
    assert not (tmp_path / "out").exists()
    status, result, _ = status_and_result(capsys, *run)
    assert status == 0
    both = foreseen.keys() & result.keys()
    assert {"packs", "lower_bound", "gap", "packing_efficiency", "packing_factor"} <= both
    assert {name: foreseen[name] for name in both - {"unchanged"}} == {
        name: result[name] for name in both - {"unchanged"}
    }
    status, refused, _ = status_and_result(
        capsys, "run", str(raw / "none"), str(tmp_path), *LIMITS, "--json", "--dry-run"
    )
    assert (status, refused["exit_status"]) == (3, 3)
