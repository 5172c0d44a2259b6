"""Raw pretraining data in the MLPerf format from plain text.

    python -m training.create_pretraining_data INPUT... --output DIR_OR_S3

reads text files (one sentence a line, an empty line between documents) and writes `train/part-*.tfrecord`,
`held-out/part-*.tfrecord` and `vocabulary.txt` below the output. The same text, options and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packing.adapters import open_storage
from packing.errors import StowageError, UsageError
from packing.example import encode_example
from packing.ports import Storage
from packing.tfrecord import encode_record
from packing.uris import absolute
from training.pretraining_data.documents import Document, read_documents, split_held_out
from training.pretraining_data.sequences import SequenceOptions, create_sequences
from training.pretraining_data.vocabulary import TokenizedDocument, read_vocabulary, tokenize, train_vocabulary


@dataclass(frozen=True)
class Options:
    """What a user decides about a dataset; every document gives its sequences `duplicates` times, masked anew."""

    sequences: SequenceOptions
    vocabulary_size: int = 8192
    duplicates: int = 5
    held_out: float = 0.05
    shards: int = 8
    compress: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("duplicates", "shards"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected an integer >= 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Shards:
    """One set of raw shards below `prefix`."""

    prefix: str
    sequences: int
    tokens: int


@dataclass(frozen=True)
class PretrainingData:
    """What was written; `held_out` is None if nothing was held out."""

    train: Shards
    held_out: Shards | None
    vocabulary: str
    vocabulary_size: int


def create_pretraining_data(
    storage: Storage,
    output: str,
    documents: Sequence[Document],
    options: Options,
    vocabulary: Sequence[str] | None = None,
) -> PretrainingData:
    """Write raw shards and the vocabulary, which is trained on the training documents unless given."""
    rng = random.Random(options.seed)  # noqa: S311 - reproducible, not secret
    training, held_out = split_held_out(documents, options.held_out, rng)
    vocabulary = vocabulary or train_vocabulary(training, options.vocabulary_size)
    written = []
    for name, part, duplicates in (("train", training, options.duplicates), ("held-out", held_out, 1)):
        if part:
            tokenized = tokenize(part, vocabulary)
            written.append(
                write_shards(storage, f"{output}/{name}", tokenized, len(vocabulary), duplicates, options, rng)
            )
    vocabulary_uri = f"{output}/vocabulary.txt"
    storage.write(vocabulary_uri, "".join(f"{token}\n" for token in vocabulary).encode())
    return PretrainingData(written[0], written[1] if held_out else None, vocabulary_uri, len(vocabulary))


def write_shards(
    storage: Storage,
    prefix: str,
    documents: Sequence[TokenizedDocument],
    vocabulary_size: int,
    duplicates: int,
    options: Options,
    rng: random.Random,
) -> Shards:
    """All passes over the documents, shuffled together and dealt out to the shards in turn."""
    records, tokens = [], 0
    for _ in range(duplicates):
        for sequence in create_sequences(documents, vocabulary_size, options.sequences, rng):
            records.append(encode_record(encode_example(sequence.features(options.sequences))))
            tokens += len(sequence.tokens)
    rng.shuffle(records)
    count = min(options.shards, len(records))
    for number in range(count):
        content = b"".join(records[number::count])
        if options.compress:
            content = gzip.compress(content, compresslevel=1, mtime=0)
        storage.write(f"{prefix}/part-{number:05d}-of-{count:05d}.tfrecord", content)
    return Shards(prefix, len(records), tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        options = _options(parsed)
        vocabulary = read_vocabulary(parsed.vocabulary) if parsed.vocabulary else None
        documents = read_documents(parsed.inputs)
        data = create_pretraining_data(open_storage(), absolute(parsed.output), documents, options, vocabulary)
    except StowageError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    mean_length = data.train.tokens / data.train.sequences
    held_out = data.held_out.sequences if data.held_out else 0
    sys.stdout.write(
        f"{data.train.sequences:,} sequences of {mean_length:.1f} tokens on average below {data.train.prefix}, "
        f"{held_out:,} held out, {data.vocabulary_size:,} tokens in {data.vocabulary}\n"
    )
    if parsed.json:
        sys.stdout.write(json.dumps(asdict(data)) + "\n")
    return 0


def _options(parsed: argparse.Namespace) -> Options:
    return Options(
        sequences=SequenceOptions(
            max_sequence_length=parsed.max_sequence_length,
            max_predictions_per_sequence=parsed.max_predictions_per_sequence,
            short_sequence_probability=parsed.short_sequence_probability,
            masked_share=parsed.masked_share,
        ),
        vocabulary_size=parsed.vocabulary_size,
        duplicates=parsed.duplicates,
        held_out=parsed.held_out,
        shards=parsed.shards,
        compress=parsed.gzip,
        seed=parsed.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.create_pretraining_data",
        description="Make raw BERT pretraining shards from plain text.",
        epilog="Defaults stand in brackets.",
    )
    add = parser.add_argument
    add(
        "inputs", nargs="+", type=Path, metavar="INPUT", help="text: a sentence a line, an empty line between documents"
    )
    add("--output", required=True, metavar="DIR_OR_S3", help="a local folder or s3://bucket/prefix")
    add("--vocabulary", type=Path, metavar="FILE", help="a BERT vocab.txt [none: trained from the text]")
    add("--vocabulary-size", type=int, default=8192, metavar="N", help="of a trained vocabulary [%(default)s]")
    add("--max-sequence-length", type=int, default=512, metavar="L", help="[%(default)s]")
    add("--max-predictions-per-sequence", type=int, default=76, metavar="P", help="[%(default)s]")
    add("--short-sequence-probability", type=float, default=0.1, metavar="SHARE", help="[%(default)s]")
    add("--masked-share", type=float, default=0.15, metavar="SHARE", help="[%(default)s]")
    add("--duplicates", type=int, default=5, metavar="N", help="passes with other masks and pairs [%(default)s]")
    add("--held-out", type=float, default=0.05, metavar="SHARE", help="documents kept for evaluation [%(default)s]")
    add("--shards", type=int, default=8, metavar="N", help="[%(default)s]")
    add("--gzip", action="store_true", help="compress the shards")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--json", action="store_true", help="end standard output with one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
