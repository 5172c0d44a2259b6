from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.launchers.kubelet import VERSIONS, started
from training.cli import build_parser, main
from training.config import COMPUTE_DTYPES, TrainingConfig
from training.launchers.documents import as_yaml

DATA = "s3://packed/books/manifests/1f2e.json"
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = {
    "kubernetes-gpu": [
        "--launcher", "kubernetes-gpu", "--data", DATA, "--model-dir", "s3://models/large", "--name", "bert-large",
        "--namespace", "training", "--image", "registry.example.org/stowage-gpu:0.1.0", "--workers", "2",
        "--devices", "8", "--toleration", "nvidia.com/gpu:NoSchedule", "--node-selector", "pool=a100",
        "--secret-env", "AWS_ACCESS_KEY_ID=s3:id", "--secret-env", "AWS_SECRET_ACCESS_KEY=s3:secret",
        "--env", "AWS_ENDPOINT_URL=https://s3.example.org", "--model", "large", "--compute-dtype", "bfloat16",
        "--tracking-uri", "https://mlflow.example.org", "--learning-rate", "1e-05",
    ],
    "kubernetes-gaudi": [
        "--launcher", "kubernetes-gaudi", "--data", DATA, "--name", "bert-base", "--priority-class", "batch",
        "--service-account", "trainer", "--secret-volume", "s3-credentials:/secrets/s3", "--label", "team=nlp",
        "--env", "AWS_SHARED_CREDENTIALS_FILE=/secrets/s3/credentials", "--model", "base", "--steps", "1000",
    ],
}  # fmt: skip


def render(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["render", *arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("launcher", EXAMPLES)
def test_examples_are_rendered_as_they_were(launcher: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After a deliberate change: `python -m training render ... > tests/launchers/golden/LAUNCHER.yaml`."""
    status, text, _ = render(capsys, *EXAMPLES[launcher])
    assert (status, text) == (0, (GOLDEN / f"{launcher}.yaml").read_text())


@pytest.mark.parametrize("launcher", EXAMPLES)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_validate_accepts_examples(launcher: str, version: str) -> None:
    for manifest in yaml.safe_load_all((GOLDEN / f"{launcher}.yaml").read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("launcher", EXAMPLES)
def test_yaml_and_json_say_the_same(launcher: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifests = list(yaml.safe_load_all(render(capsys, *EXAMPLES[launcher])[1]))
    assert json.loads(render(capsys, *EXAMPLES[launcher], "--json")[1])["items"] == manifests
    assert len(manifests) == {"kubernetes-gpu": 2, "kubernetes-gaudi": 1}[launcher]


def trained_with(capsys: pytest.CaptureFixture[str], *arguments: str) -> argparse.Namespace:
    """What `train` in the pods reads from its command line."""
    status, text, errors = render(capsys, *arguments, "--json")
    assert status == 0, errors
    command, _ = started(json.loads(text)["items"][-1], 0)
    assert command[:4] == ["python", "-m", "training", "train"]
    return build_parser().parse_args(command[3:])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--seed", "7", "--dropout", "0", "--xla", "--deterministic", "--micro-batches", "4"],
        ["--learning-rate", "1e-5", "--steps", "10", "--threads", "3", "--cache-dir=-odd", "--cache-bytes", "99"],
        ["--cache-dir", "/cache/$(HOME)/$$x"],
        ["--eval-data", "s3://raw/held-out", "--eval-every", "9", "--target-mlm-accuracy", "0.72"],
        *(["--compute-dtype", dtype] for dtype in COMPUTE_DTYPES),
    ],
)
def test_pods_train_with_the_options_of_render(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    wanted = build_parser().parse_args(
        [
            "train",
            "--json",
            "--data",
            DATA,
            DATA,
            "--model-dir",
            "s3://models/x",
            "--strategy",
            "multi-worker",
            *options,
        ]
    )
    given = ["--data", DATA, DATA, "--model-dir", "s3://models/x", *options]
    assert trained_with(capsys, "--launcher", "kubernetes-gpu", "--workers", "2", *given) == wanted


@pytest.mark.parametrize(
    ("launcher", "workers", "strategy"),
    [("kubernetes-gpu", 1, "mirrored"), ("kubernetes-gpu", 2, "multi-worker"), ("kubernetes-gaudi", 8, "hpu")],
)
def test_the_strategy_follows_from_the_launcher(
    launcher: str, workers: int, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = trained_with(capsys, "--launcher", launcher, "--data", DATA, "--workers", str(workers), "--name", "me")
    assert (options.strategy, options.model_dir) == (strategy, "s3://packed/books/models/me")
    TrainingConfig(tuple(options.data), strategy=options.strategy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers"),
        (["--name", "Mine"], "name"),
        (["--memory", "64gb"], "memory"),
        (["--env", "X"], "--env"),
        (["--env", "X=1", "--env", "X=2"], "--env"),
        (["--toleration", "x:Never"], "NoExecute"),
        (["--node-selector", "zone"], "--node-selector"),
        (["--secret-volume", "name"], "secret volume"),
        (["--devices", "8", "--launcher", "kubernetes-gaudi"], "devices"),
        (["--model", "enormous"], "enormous"),
        (["--steps", "0"], "steps"),
        (["--data", "s3://raw/books"], "manifest"),
        (["--mode", "padded", "--data", "s3://raw/books"], "--model-dir"),
        (["--eval-every", "9"], "eval_every"),
    ],
)
def test_errors_end_with_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text, errors = render(capsys, "--launcher", "kubernetes-gpu", "--data", DATA, *arguments)
    assert (status, text) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_local_path_is_remarked_upon(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    status, _, _ = render(capsys, "--launcher", "kubernetes-gpu", "--data", "/data/manifests/1f.json")
    assert status == 0
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "/data/manifests/1f.json",
        "/data/models/stowage-training",
    ]


CANARY = "CANARY/4b1d"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--secret-env", "AWS_SECRET_ACCESS_KEY=s3:secret"], 0),
        (["--env", f"AWS_SECRET_ACCESS_KEY={CANARY}"], 2),
        (["--secret-env", f"AWS_SECRET_ACCESS_KEY={CANARY}"], 2),
        (["--secret-env", f"AWS_SECRET_ACCESS_KEY=s3:{CANARY}"], 2),
        (["--secret-volume", f"{CANARY}:/secrets"], 2),
        (["--env", f"HTTPS_PROXY=http://me:{CANARY.replace('/', '')}@proxy"], 2),
        (["--tracking-uri", f"https://me:{CANARY.replace('/', '')}@mlflow"], 2),
    ],
)
def test_no_secret_is_ever_printed(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of this shell's environment nor one that stands where its reference should."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{CANARY.replace('/', '')}@mlflow")
    for form in ([], ["--json"]):
        ended, text, errors = render(capsys, "--launcher", "kubernetes-gpu", "--data", DATA, *arguments, *form)
        assert ended == status
        assert "canary" not in (text + errors).lower()
        assert bool(text) == (status == 0 or bool(form))  # a failure is JSON, too


@given(st.text())
@example("1e-05")
@example("$(HOME)")
def test_texts_come_back_from_yaml(text: str) -> None:
    document: dict[str, Any] = {"kind": "List", "items": [text, text], "more": {"text": text}}
    assert list(yaml.safe_load_all(as_yaml([document, document]))) == [document, document]


@pytest.mark.parametrize(
    "text", ["1e3", "1e-05", "0o17", "0x1f", "1_000", "y", "N", "yes", "null", "~", "12:30", ".5", "+1"]
)
def test_what_some_readers_take_for_something_else_is_quoted(text: str) -> None:
    assert as_yaml([{"value": text}]).splitlines()[1].removeprefix("value: ") in (f'"{text}"', f"'{text}'")


def test_rendering_imports_no_tensorflow() -> None:
    program = (
        "import sys, training.cli\n"
        f"status = training.cli.main(['render', '--launcher', 'kubernetes-gpu', '--data', {DATA!r}])\n"
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kind: Job" in done.stdout
