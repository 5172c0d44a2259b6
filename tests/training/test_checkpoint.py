from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing.adapters.local import LocalStorage
from packing.errors import InputError, StorageError, UsageError, VerificationError
from packing.in_memory import MemoryStorage
from packing.ports import Buffer, ObjectInfo
from tests.training.packs import MODEL
from training.checkpoint import Checkpoints, restore_weights
from training.config import ModelConfig
from training.model import Bert, weight_shapes
from training.optimizer import Lamb
from training.step import Progress, TrainingState

pytestmark = pytest.mark.slow

FOLDER = "/model"
SMALL = replace(MODEL, num_hidden_layers=1)


def new_state(config: ModelConfig = SMALL) -> TrainingState:
    model = Bert(config)
    return TrainingState(tf.distribute.get_strategy(), model, Lamb(model.weights.values()), Progress())


@pytest.fixture(scope="module")
def shared() -> TrainingState:
    return new_state()


@pytest.fixture
def state(shared: TrainingState) -> TrainingState:
    """A state at step 0."""
    go_to(shared, 0)
    return shared


def variables(state: TrainingState) -> list[tf.Variable]:
    return [*state.model.variables, *state.optimizer.means, *state.optimizer.squares, *state.progress.variables]


def go_to(state: TrainingState, step: int) -> None:
    """Give every variable a value that it has at this step alone."""
    rng = np.random.default_rng(step)
    for variable in (*variables(state), state.optimizer.updates):
        variable.assign(tf.cast(rng.normal(1000, 100, variable.shape), variable.dtype))
    state.progress.steps.assign(step)


def values(state: TrainingState) -> list[bytes]:
    return [variable.numpy().tobytes() for variable in (*variables(state), state.optimizer.updates)]


def values_at(state: TrainingState, step: int) -> list[bytes]:
    go_to(state, step)
    return values(state)


def save_at(checkpoints: Checkpoints, state: TrainingState, *steps: int) -> list[str]:
    saved = []
    for step in steps:
        go_to(state, step)
        saved.append(checkpoints.save())
    return saved


def restored_step(storage: MemoryStorage, state: TrainingState, scratch: Path) -> int:
    """The step that a new process would resume from, all of its values checked; -1 for none."""
    go_to(state, 999)
    if not Checkpoints(storage, FOLDER, state, keep=1, scratch=scratch).restore_latest():
        return -1
    step, found = int(state.progress.steps.numpy()), values(state)
    assert found == values_at(state, step)
    return step


def names(storage: MemoryStorage) -> list[str]:
    return [info.uri.removeprefix(f"{FOLDER}/checkpoints/") for info in storage.list(FOLDER)]


def files_of(*steps: int) -> list[str]:
    ends = ("/state.data-00000-of-00001", "/state.index", ".json")
    return sorted(f"{step:08d}{end}" for step in steps for end in ends)


def test_all_that_changes_is_restored_bit_by_bit_and_the_last_are_kept(state: TrainingState, tmp_path: Path) -> None:
    storage = MemoryStorage()
    checkpoints = Checkpoints(storage, FOLDER, state, keep=2, scratch=tmp_path)
    assert (checkpoints.latest(), checkpoints.restore_latest()) == (None, False)
    saved = save_at(checkpoints, state, 3, 12, 123456789)
    assert saved == [f"{FOLDER}/checkpoints/{name}.json" for name in ("00000003", "00000012", "123456789")]
    assert checkpoints.latest() == saved[-1]
    assert names(storage) == files_of(12, 123456789)
    assert restored_step(storage, state, tmp_path) == 123456789


class Killed(BaseException):
    """The process is gone."""


class Mortal(MemoryStorage):
    """A store that one process changes `life` times, and then never again."""

    life = 10**9

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        self._live()
        return super().write(uri, data)

    def delete(self, uri: str) -> None:
        self._live()
        super().delete(uri)

    def _live(self) -> None:
        if self.life == 0:
            raise Killed
        self.life -= 1


def test_a_save_killed_at_any_moment_leaves_the_one_before_or_is_complete(state: TrainingState, tmp_path: Path) -> None:
    before = Mortal()
    save_at(Checkpoints(before, FOLDER, state, keep=1, scratch=tmp_path), state, 1)
    resumed = []
    for life in range(100):
        storage = Mortal()
        storage.objects, storage.life = dict(before.objects), life
        checkpoints = Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path)
        try:
            save_at(checkpoints, state, 2)
        except Killed:
            storage.life = 10**9
            steps = [int(name[:8]) for name in names(storage) if name.endswith(".json")]
            assert set(files_of(*steps)) <= set(names(storage))
            resumed.append(restored_step(storage, state, tmp_path))
            save_at(checkpoints, state, 3)
            assert names(storage) == files_of(3)
        else:
            break
    assert names(storage) == files_of(2)
    assert resumed == [1, 1, 1, 2, 2, 2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, shared: TrainingState) -> MemoryStorage:
    """Checkpoints of the steps 1 and 2."""
    storage = MemoryStorage()
    save_at(Checkpoints(storage, FOLDER, shared, keep=2, scratch=tmp_path_factory.mktemp("scratch")), shared, 1, 2)
    return storage


def copy(storage: MemoryStorage) -> MemoryStorage:
    other = MemoryStorage()
    other.objects = dict(storage.objects)
    return other


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(files_of(2)), st.data())
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(
    saved: MemoryStorage, state: TrainingState, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    storage, document = copy(saved), f"{FOLDER}/checkpoints/00000002.json"
    uri = f"{FOLDER}/checkpoints/{name}"
    content = bytearray(storage.objects[uri])
    place = data.draw(st.integers(0, len(content) - 1))
    damage: Callable[[], object] = {
        "cut": lambda: storage.write(uri, content[:place]),
        "longer": lambda: storage.write(uri, content + b"x"),
        "zero": lambda: storage.write(uri, content[:place] + b"\0" + content[place + 1 :]),
        "gone": lambda: storage.delete(uri),
    }[data.draw(st.sampled_from(["cut", "longer", "zero"] + ["gone"] * (uri != document)))]
    damage()
    if storage.objects.get(uri) == content:
        return
    go_to(state, 999)
    checkpoints = Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path)
    with pytest.raises(VerificationError, match=rf"^{uri}: expected .*, found .*delete {document} to"):
        checkpoints.restore_latest()
    assert values(state) == values_at(state, 999)
    assert list(tmp_path.iterdir()) == []
    storage.delete(document)
    assert restored_step(storage, state, tmp_path) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": 1}, InputError, "expected format 2, found 1"),
        ({"files": [{"name": "../../etc/passwd", "bytes": 1, "sha256": ""}]}, VerificationError, "etc/passwd"),
        ({"files": 7}, VerificationError, "expected a checkpoint's document"),
        ({"files": []}, InputError, "cannot be restored"),
    ],
)
def test_a_document_that_is_none_is_refused(
    saved: MemoryStorage,
    state: TrainingState,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    storage, uri = copy(saved), f"{FOLDER}/checkpoints/00000002.json"
    storage.write(uri, json.dumps({**json.loads(storage.read(uri)), **changes}).encode())
    with pytest.raises(error, match=f"^{uri}: .*{message}"):
        Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path).restore_latest()


def test_a_checkpoint_of_another_model_is_refused(saved: MemoryStorage, tmp_path: Path) -> None:
    other = new_state(replace(SMALL, vocab_size=50))
    with pytest.raises(InputError, match=r"00000002.json: cannot be restored into this model"):
        Checkpoints(saved, FOLDER, other, keep=1, scratch=tmp_path).restore_latest()
    with pytest.raises(InputError, match=r"00000002.json: cannot be restored into this model"):
        restore_weights(saved, Bert(MODEL), FOLDER)


def test_weights_are_restored_without_the_rest(saved: MemoryStorage, state: TrainingState) -> None:
    model = Bert(SMALL)
    restore_weights(saved, model, f"{FOLDER}/")
    go_to(state, 2)
    assert model.weights.keys() == state.model.weights.keys()
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight.numpy(), state.model.weights[name].numpy())


def test_a_folder_without_checkpoints_has_no_weights(saved: MemoryStorage) -> None:
    storage = copy(saved)
    for step in (1, 2):
        storage.delete(f"{FOLDER}/checkpoints/{step:08d}.json")
    assert storage.objects
    with pytest.raises(UsageError, match=f"^{FOLDER}: expected a checkpoint, found none"):
        restore_weights(storage, Bert(SMALL), FOLDER)


def test_plain_tensorflow_reads_a_local_model_folder(state: TrainingState, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_at(Checkpoints(LocalStorage(), str(folder), state, keep=1, scratch=tmp_path / "scratch"), state, 7, 12)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["00000012", "00000012.json"]
    prefix = str(folder / "checkpoints/00000012/state")
    reader = tf.train.load_checkpoint(prefix)
    for name in weight_shapes(SMALL):
        key = f"model/weights/{name.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"
        np.testing.assert_array_equal(reader.get_tensor(key), state.model.weights[name].numpy())
    assert reader.get_tensor("progress/steps/.ATTRIBUTES/VARIABLE_VALUE") == 12
    model = Bert(SMALL)
    tf.train.Checkpoint(model=model).read(prefix).expect_partial().assert_existing_objects_matched()
    assert [weight.numpy().tobytes() for weight in model.variables] == [
        weight.numpy().tobytes() for weight in state.model.variables
    ]


@pytest.fixture
def abandoned(tmp_path: Path) -> Iterator[Path]:
    """What a killed process left in its scratch folder."""
    left = tmp_path / "checkpoint-abc"
    left.mkdir()
    (left / "state.index").write_bytes(b"x")
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_nothing_is_left_on_this_machine(state: TrainingState, abandoned: Path) -> None:
    (abandoned / "other").touch()
    storage = Mortal()
    checkpoints = Checkpoints(storage, FOLDER, state, keep=1, scratch=abandoned)
    for life in (0, 1, 2, 10):
        storage.life = life
        try:
            checkpoints.save()
        except Killed:
            assert life < 3
    assert checkpoints.restore_latest()
    assert [path.name for path in abandoned.iterdir()] == ["other"]


def test_a_disk_that_takes_no_checkpoint_is_a_clear_error(state: TrainingState, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_bytes(b"a file")
    checkpoints = Checkpoints(MemoryStorage(), FOLDER, state, keep=1, scratch=tmp_path / "scratch")
    with pytest.raises(StorageError, match=r"scratch.*free space"):
        checkpoints.save()


def test_a_step_is_saved_once(state: TrainingState, tmp_path: Path) -> None:
    storage = Mortal()
    checkpoints = Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path)
    (first,) = save_at(checkpoints, state, 5)
    storage.life = 0
    assert checkpoints.save() == first


def test_a_second_process_in_the_folder_is_found_out(state: TrainingState, tmp_path: Path) -> None:
    storage = MemoryStorage()
    checkpoints = Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path)
    save_at(checkpoints, state, 5)
    with pytest.raises(UsageError, match=r"00000005.json: expected no checkpoint after step 4.*another process"):
        save_at(checkpoints, state, 4)
    assert names(storage) == files_of(5)


def test_a_store_that_deletes_nothing_still_takes_checkpoints(
    state: TrainingState, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(MemoryStorage):
        def delete(self, uri: str) -> None:
            raise StorageError(f"{uri}: refused")

    storage = Keeping()
    save_at(Checkpoints(storage, FOLDER, state, keep=1, scratch=tmp_path), state, 1, 2)
    assert names(storage) == files_of(1, 2)
    assert "an old checkpoint is left: /model/checkpoints/00000001.json: refused" in caplog.text
