"""The gradients of one global batch as a worker of TF_CONFIG, or a single process, computes them; kept in a file.

python -m tests.training.gradients STRATEGY OUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from tests.training.packs import GROUPS, MODEL, group_sequences, pack, stack
from training.devices import local_replicas, open_strategy, this_worker
from training.model import Bert
from training.step import GlobalGradients


def main() -> None:
    """Compute the share of this worker's one replica; all workers then hold the sums."""
    name, out = sys.argv[1:]
    strategy, worker = open_strategy(name), this_worker(name)
    with strategy.scope():
        gradients = GlobalGradients(Bert(MODEL, seed=1))
    examples = [pack(group, 3) for group in group_sequences(GROUPS)]
    size, (replica,) = len(examples) // strategy.num_replicas_in_sync, local_replicas(strategy, worker)
    share = stack(examples[replica * size : (replica + 1) * size])
    found = strategy.run(tf.function(gradients), args=(share,))
    values = {str(number): value.numpy() for number, value in enumerate(found.values)}
    np.savez(out, **values, counts=np.array([float(count) for count in found.counts]))


if __name__ == "__main__":
    main()
