from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from packing.errors import InputError, UsageError
from packing.in_memory import MemoryStorage
from training.config import MODELS, ModelConfig, TrainingConfig, load_model_config
from training.devices import Worker, this_worker
from training.saved import SavedConfig


def test_published_sizes() -> None:
    shapes = {
        name: (m.num_hidden_layers, m.hidden_size, m.num_attention_heads, m.intermediate_size)
        for name, m in MODELS.items()
    }
    assert shapes == {
        "tiny": (2, 128, 2, 512),
        "mini": (4, 256, 4, 1024),
        "base": (12, 768, 12, 3072),
        "large": (24, 1024, 16, 4096),
    }


def test_a_published_config_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bert_config.json"
    multilingual = {"directionality": "bidi", "pooler_type": "first_token_transform"}
    shape = {"hidden_act": "gelu", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 7}
    path.write_text(json.dumps({**shape, **multilingual}))
    assert load_model_config(str(path)) == ModelConfig(hidden_size=64, num_attention_heads=4, vocab_size=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"hidden_act": "relu"}', "hidden_act"),
        ('{"hidden_sizes": 64}', "unknown fields hidden_sizes"),
        ('{"hidden_size": 65}', "not a multiple"),
        ('{"vocab_size": 0}', "vocab_size"),
        ('{"vocab_size": "7"}', "vocab_size"),
        ("[]", "JSON object"),
        ("{", "not a readable JSON"),
    ],
)
def test_a_wrong_config_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        load_model_config(str(path))


@pytest.mark.parametrize("name", ["huge", "/nowhere/model.json"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        load_model_config(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "sequences": 1},
        {"steps": 0},
        {"sequences_per_step": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": -1.0},
        {"seed": 2**31},
        {"mode": "padded"},
        {"mode": "striped"},
        {"strategy": "abacus"},
        {"data": ("raw/prefix",)},
        {"data": ()},
        {"data": ("raw/a", "raw/b"), "mode": "bucketed"},
        {"micro_batches": 0},
        {"compute_dtype": "int8"},
        {"decay_power": -1.0},
        {"learning_rate": float("inf")},
        {"cache_bytes": 0},
        {"peak_tflops": 0.0},
        {"eval_every": 10},
        {"eval_data": "raw", "target_mlm_accuracy": 1.5},
        {"eval_data": "a.json"},
        {"eval_sequences": 0},
    ],
)
def test_a_wrong_training_config_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TrainingConfig(**{"data": ("manifest.json",), **changes})  # type: ignore[arg-type]


def test_a_saved_config_comes_back() -> None:
    storage = MemoryStorage()
    saved = SavedConfig(MODELS["mini"], TrainingConfig(("a.json", "b.json"), steps=3), ("x", "y"), 24, "run")
    saved.save(storage, "/model")
    assert SavedConfig.load(storage, "/model") == saved
    assert SavedConfig.load(storage, "/model") != replace(saved, model=MODELS["tiny"])


def test_a_folder_that_no_run_wrote_is_refused() -> None:
    storage = MemoryStorage()
    with pytest.raises(UsageError, match=r"config\.json"):
        SavedConfig.load(storage, "/model")
    assert SavedConfig.find(storage, "/model") is None
    SavedConfig(MODELS["mini"], TrainingConfig(("a.json",)), ("x",), 24, "run").save(storage, "/model")
    saved = json.loads(storage.read("/model/config.json"))
    changes = {"format": 9}, {"model": {"hidden_size": 7}}, {"training": {"data": 3}}
    strange = (*({**saved, **change} for change in changes), {}, [])
    for content in (*(json.dumps(document).encode() for document in strange), b"{", b"[" * 100_000):
        storage.write("/model/config.json", content)
        for read in (SavedConfig.load, SavedConfig.find):
            with pytest.raises(InputError, match=r"/model/config\.json"):
                read(storage, "/model")


def test_help_and_config_do_not_import_tensorflow() -> None:
    program = (
        "import sys, training.cli, training.config, training.devices\n"
        "try: training.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--sequences-per-step" in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_wrong_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="TF_CONFIG"):
        this_worker("multi-worker")


def test_a_worker_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert (this_worker("multi-worker"), this_worker("cpu")) == (Worker(2, 3), Worker())
    assert [this_worker(name).is_chief for name in ("multi-worker", "mirrored")] == [False, True]
