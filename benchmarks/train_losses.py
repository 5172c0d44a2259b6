"""Losses after training a tiny BERT on the same number of sequences, packed and padded, from several seeds.

    python -m benchmarks.train_losses MANIFEST RAW_PREFIX HELD_OUT_PREFIX FOLDER SEQUENCES SEEDS

Each run begins with other weights and reads in another order; all are evaluated on the same held-out sequences. Prints
a JSON object. FOLDER is for local copies and checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from packing.adapters.local import LocalStorage
from packing.adapters.untracked import NullTracker
from training.config import MODELS, TrainingConfig
from training.shards import Cache
from training.train import train

_SEQUENCES_PER_STEP, _EVALUATED_SEQUENCES = 10, 192
_LEARNING_RATE = 0.02  # high, so that few steps show that it learns


def main() -> None:
    """Train and print."""
    manifest, raw, held_out, folder = sys.argv[1:5]
    sequences, seeds = map(int, sys.argv[5:])
    storage, cache = LocalStorage(), Cache(Path(folder) / "cache")
    losses: dict[str, list[float]] = {"packed": [], "padded": []}
    for seed in range(seeds):
        for mode, data in (("packed", manifest), ("padded", raw)):
            config = TrainingConfig(
                data=(data,),
                mode=mode,
                sequences=sequences,
                sequences_per_step=_SEQUENCES_PER_STEP,
                learning_rate=_LEARNING_RATE,
                warmup_sequences=sequences // 10,
                seed=seed,
                eval_data=held_out,
                eval_sequences=_EVALUATED_SEQUENCES,
            )
            run = Path(folder) / f"{mode}-{seed}"
            summary = train(storage, NullTracker(), MODELS["tiny"], config, str(run), work=run, cache=cache)
            losses[mode].append(summary.evaluation.mlm_loss)
    sys.stdout.write(json.dumps({"mlm_losses": losses}) + "\n")


if __name__ == "__main__":
    main()
