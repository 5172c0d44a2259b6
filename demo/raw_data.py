"""Raw pretraining data from the text of this machine, made once for each version of its sources and options.

    python -m demo.raw_data FOLDER

The demo runs this as a process of its own, beside the start of the servers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import sysconfig
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.corpus import PACKAGES, collect_documents
from packing.adapters import open_storage
from packing.errors import UsageError
from packing.jsonio import digest, pretty
from packing.ports import Storage
from training.create_pretraining_data import Options, create_pretraining_data
from training.pretraining_data.sequences import SequenceOptions

OPTIONS = Options(SequenceOptions(max_sequence_length=512, max_predictions_per_sequence=76), duplicates=2)
SUMMARY = "summary.json"


@dataclass(frozen=True)
class RawData:
    """Raw shards on this machine: folders of training and held-out shards, and how many sequences they hold."""

    train: Path
    held_out: Path
    sequences: int
    mean_length: float


def raw_data_folder(parent: Path) -> Path:
    """Where the data for the present sources and options belongs; its name digests whatever determines its bytes."""
    source = Path(__file__).parent.parent
    code = [source / "demo/corpus.py", *source.glob("training/pretraining_data/*.py")]
    code += [source / "training/create_pretraining_data.py", source / "packing/example.py"]
    inputs = {
        "options": asdict(OPTIONS),
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, "tokenizers")},
        "python": platform.python_version(),
        "code": {str(path.relative_to(source)): path.read_text(encoding="utf-8") for path in sorted(code)},
    }
    return parent / digest(inputs)[:16]


def load_raw_data(folder: Path) -> RawData | None:
    """The data below `folder`, or None unless it is there completely."""
    summary = folder / SUMMARY
    if not summary.exists():
        return None
    train = json.loads(summary.read_bytes())["train"]
    return RawData(
        folder / "train", folder / "held-out", train["sequences"], train["tokens"] / max(train["sequences"], 1)
    )


def make_raw_data(folder: Path) -> None:
    """Write the data, and at last the summary by which it is known to be complete; other versions are removed."""
    if folder.parent.exists():
        shutil.rmtree(folder.parent)
    warnings.simplefilter("ignore", SyntaxWarning)  # other people's escape sequences
    documents = collect_documents(Path(sysconfig.get_path("purelib")))
    data = create_pretraining_data(open_storage(), str(folder), documents, OPTIONS)
    (folder / SUMMARY).write_bytes(pretty(asdict(data)))


def upload(storage: Storage, folder: Path, prefix: str) -> int:
    """Copy the files of `folder` below `prefix`; returns their bytes."""
    files = sorted(folder.iterdir())
    if not files:
        raise UsageError(f"{folder}: expected raw shards, found none")
    for file in files:
        storage.write(f"{prefix}/{file.name}", file.read_bytes())
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Make the data in the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.raw_data", description="Make the demo's raw data.")
    parser.add_argument("folder", type=Path)
    make_raw_data(parser.parse_args().folder.absolute())


if __name__ == "__main__":
    main()
