"""Initial weights from a published checkpoint of BERT, or from a checkpoint of another run.

Three namings are understood (`names`). Checkpoints of TF1 (google-research/bert, MLPerf's `tf1_ckpt`) are read by
name. Object-based checkpoints of TF2 (MLPerf's `tf2_ckpt`, the TF Model Garden's encoders and pretrainers) have keys
that are paths through Python attributes, which differ between versions of the Garden, but record each variable's own
name too, which hardly does: those names are matched, whatever scope stands before them. Checkpoints of this project
are object-based with the names of TF1; a model folder's are restored as they are when a run is resumed.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from packing.errors import InputError, ObjectNotFoundError, UsageError
from packing.ports import Storage
from training.checkpoint import restore_weights
from training.config import PUBLISHED_CONFIG, ModelConfig, parse_json
from training.files import fetch_checkpoint, only_checkpoint
from training.model import Bert, weight_shapes
from training.names import NSP_WEIGHTS, stored_names, stored_shape
from training.saved import CONFIG_FILE

_log = logging.getLogger(__name__)

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_READER_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
_HEADS = ("cls/predictions/", "cls/seq_relationship/")
_SHAPE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True)
class InitialWeights:
    """Where a model's weights came from; `naming` is "tf1", "tf2" or "stowage".

    `loaded` are names of the model, `missing` those of whole heads that the checkpoint does not have, and `ignored`
    the checkpoint's other variables, such as optimizer slots.
    """

    source: str
    naming: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Stored:
    """An opened checkpoint; `keys` of the reader by the variables' own names, `shapes` by keys."""

    prefix: Path
    naming: str
    reader: Any
    keys: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]


def load_initial_weights(storage: Storage, model: Bert, checkpoint: str, scratch: Path) -> InitialWeights:
    """Give `model` the weights of a checkpoint; all but whole missing heads must be there, in the right shapes.

    `checkpoint` is a path or a URI: a prefix of TensorFlow's; a folder, which means the checkpoint that its
    `checkpoint` file names, or else the only one in it; or a model folder of this project, which means its latest.
    `scratch` is a local folder for a copy of one from a store. Raises UsageError for none or several, and for a
    checkpoint of another model; InputError for one that cannot be read; VerificationError for a damaged one of ours.
    """
    if any(info.uri.endswith(".json") for info in storage.list(f"{checkpoint}/checkpoints")):
        return _load_model_folder(storage, model, checkpoint)
    if "://" not in checkpoint:
        return _load_prefix(model, _find_prefix(Path(checkpoint)))
    with TemporaryDirectory(dir=scratch) as folder:
        return _load_prefix(model, fetch_checkpoint(storage, checkpoint, Path(folder)))


def _load_model_folder(storage: Storage, model: Bert, folder: str) -> InitialWeights:
    uri = f"{folder}/{CONFIG_FILE}"
    with suppress(ObjectNotFoundError):
        _compare_config(folder, model.config, uri, _model_of(parse_json(storage.read(uri), uri)))
    own = Bert(model.config, dtype=model.dtype)
    restore_weights(storage, own, folder)
    values = {name: weight.numpy() for name, weight in own.weights.items()}
    for name, value in values.items():
        _check_finite(folder, name, value)
    _assign(model, values)
    return InitialWeights(folder, "stowage", tuple(values), (), ())


def _load_prefix(model: Bert, prefix: Path) -> InitialWeights:
    stored = _open(prefix)
    _check_config(stored.prefix, model.config)
    found = _find_weights(stored, model.config)
    missing = tuple(name for name in model.weights if name not in found)
    if missing:
        _log.warning("%s has no %s; they start from the seed", stored.prefix, ", ".join(missing))
    _assign(model, {name: _read(stored, name, key, model.weights[name]) for name, key in found.items()})
    ignored = tuple(sorted(set(stored.shapes) - set(found.values())))
    return InitialWeights(str(stored.prefix), stored.naming, tuple(found), missing, ignored)


def _assign(model: Bert, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """All are read before any is assigned, so that an error leaves the model as it was."""
    for name, value in values.items():
        model.weights[name].assign(value)


def _find_prefix(path: Path) -> Path:
    if not path.is_dir():
        if not path.with_name(f"{path.name}.index").is_file():
            raise UsageError(
                f"{path}: expected a checkpoint, found no {path.name}.index; give its prefix or its folder"
            )
        return path
    latest = tf.train.latest_checkpoint(str(path))
    if latest is not None:
        return Path(latest)
    return path / only_checkpoint(str(path), [file.name for file in path.iterdir()])


def _open(prefix: Path) -> _Stored:
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        if _OBJECT_GRAPH not in shapes:
            return _Stored(prefix, "tf1", reader, {key: (key,) for key in shapes}, shapes)
        del shapes[_OBJECT_GRAPH]
        graph = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    except _READER_ERRORS as exc:
        raise InputError(f"{prefix}: cannot be read as a checkpoint ({exc})") from exc
    keys: dict[str, tuple[str, ...]] = {}
    for attribute in (attribute for node in graph.nodes for attribute in node.attributes):
        if attribute.checkpoint_key in shapes:
            keys[attribute.full_name] = (*keys.get(attribute.full_name, ()), attribute.checkpoint_key)
    naming = "stowage" if "bert/embeddings/word_embeddings" in keys else "tf2"
    return _Stored(prefix, naming, reader, keys, shapes)


def _check_config(prefix: Path, config: ModelConfig) -> None:
    """Compare with the configuration beside the checkpoint or, as in MLPerf's layout, beside its folder.

    Shapes do not tell all: weights of 12 heads fit a model of 16.
    """
    for path, document in _configs_near(prefix):
        _compare_config(str(prefix), config, str(path), document)


def _compare_config(source: str, config: ModelConfig, path: str, document: Mapping[str, Any]) -> None:
    expected = {name: value for name, value in asdict(config).items() if name in _SHAPE_FIELDS}
    for name, value in expected.items():
        if name in document and document[name] != value:
            raise UsageError(
                f"{source}: {name}: expected {value} (the model's), found {document[name]} in {path}; give --model "
                "and --vocab-size to match it"
            )
    if document.get("hidden_act", "gelu") != "gelu":
        raise UsageError(f"{source}: hidden_act: expected gelu, found {document['hidden_act']} in {path}")


def _configs_near(prefix: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    parents = prefix.absolute().parents
    for folder in parents[:2]:
        if (path := folder / PUBLISHED_CONFIG).is_file():
            yield path, parse_json(path.read_bytes(), str(path))
    # A checkpoint of this project lies two folders below its model folder.
    for folder in parents[2:3]:
        if (path := folder / CONFIG_FILE).is_file():
            yield path, _model_of(parse_json(path.read_bytes(), str(path)))


def _model_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model = config.get("model")
    return model if isinstance(model, dict) else {}


def _find_weights(stored: _Stored, config: ModelConfig) -> dict[str, str]:
    """The reader's key for each weight, in the model's order, checked for shape; whole heads may be left out."""
    names = list(weight_shapes(config))
    found = {name: key for name in names if (key := _find_key(stored, name)) is not None}
    absent = tuple(head for head in _HEADS if not any(name.startswith(head) for name in found))
    for name in names:
        shape = stored_shape(name, stored.naming, config)
        if name not in found and not name.startswith(absent):
            raise UsageError(_describe_missing(stored, name, shape))
        if name in found and stored.shapes[found[name]] != shape:
            raise UsageError(_describe_shape(stored, name, found[name], shape))
    beyond = f"bert/encoder/layer_{config.num_hidden_layers}/output/dense/kernel"
    if (key := _find_key(stored, beyond)) is not None:
        raise UsageError(f"{stored.prefix}: expected {config.num_hidden_layers} layers, found more ({key})")
    return found


def _find_key(stored: _Stored, name: str) -> str | None:
    for candidate in stored_names(name, stored.naming):
        matches = [known for known in stored.keys if known == candidate]
        if stored.naming == "tf2":
            # An optimizer's slots may have the same names in a deeper scope, such as Adam/m.
            scoped = sorted((known for known in stored.keys if f"/{known}".endswith(f"/{candidate}")), key=_depth)
            matches = [known for known in scoped if _depth(known) == _depth(scoped[0])]
        keys = [key for known in matches for key in stored.keys[known]]
        if len(keys) > 1:
            raise UsageError(f"{stored.prefix}: {name}: expected one variable {candidate}, found {', '.join(keys)}")
        if keys:
            return keys[0]
    return None


def _depth(name: str) -> int:
    return name.count("/")


def _read(stored: _Stored, name: str, key: str, variable: tf.Variable) -> np.ndarray[Any, Any]:
    try:
        value = stored.reader.get_tensor(key)
    except _READER_ERRORS as exc:
        raise InputError(f"{stored.prefix}: {key}: cannot be read ({exc})") from exc
    value = np.asarray(value, variable.dtype.as_numpy_dtype)
    _check_finite(str(stored.prefix), key, value)
    if stored.naming == "tf2" and name == NSP_WEIGHTS:
        value = value.T
    return value.reshape(variable.shape)


def _check_finite(source: str, name: str, value: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(value).all():
        raise InputError(f"{source}: {name}: expected finite numbers, found others")


def _describe_missing(stored: _Stored, name: str, shape: Sequence[int]) -> str:
    wanted = stored_names(name, stored.naming)
    nearest = difflib.get_close_matches(wanted[0], stored.keys, n=3, cutoff=0.0)
    return (
        f"{stored.prefix}: {name}: expected a variable {' or '.join(wanted)} of shape {list(shape)}, found none among "
        f"{len(stored.keys)}; nearest are {', '.join(nearest) or 'none'}"
    )


def _describe_shape(stored: _Stored, name: str, key: str, shape: Sequence[int]) -> str:
    found, advice = stored.shapes[key], ""
    if name == "bert/embeddings/word_embeddings" and found[1:] == shape[1:]:
        advice = f"; give --vocab-size {found[0]}"
    return f"{stored.prefix}: {name}: expected shape {list(shape)}, found {list(found)} in {key}{advice}"
