"""### Pretrain BERT on a packed dataset

Runs when `refresh_packed_dataset` commits a new version of the packed dataset below the configured destination, or by
hand with the URI of a **manifest**. Training runs in a process of its own and is an MLflow run in the experiment
`bert-pretraining` that names its recipe and manifest.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.definitions.context import Context

from stowage_airflow.assets import packed_dataset
from stowage_airflow.connections import task_errors
from stowage_airflow.operators import LaunchTrainingOperator
from stowage_airflow.requests import check_options, choose_manifest
from stowage_airflow.settings import read_settings

settings = read_settings()

params = {
    "data": Param(
        None,
        type=["null", "string"],
        title="Manifest",
        description="A packed dataset's manifest; empty for the newest one of the event that started the run.",
        section="Data",
    ),
    "model": Param(
        settings.train_model,
        type="string",
        description_md="`tiny`, `mini`, `base`, `large`, or the path of a `bert_config.json`.",
        section="Training",
    ),
    "vocab_size": Param(
        settings.train_vocab_size,
        type="integer",
        minimum=1,
        description="Entries of the vocabulary.",
        section="Training",
    ),
    "steps": Param(
        settings.train_steps, type="integer", minimum=1, description="Optimizer steps in all.", section="Training"
    ),
    "sequences_per_step": Param(
        settings.train_sequences_per_step,
        type="integer",
        minimum=1,
        description="Sequences in one optimizer step; the packs follow from the packing factor.",
        section="Training",
    ),
    "learning_rate": Param(
        settings.train_learning_rate,
        type="number",
        exclusiveMinimum=0,
        description="Peak of LAMB's schedule, which then falls to 0 over the run.",
        section="Training",
    ),
    "warmup_sequences": Param(
        0, type="integer", minimum=0, description="Sequences until the peak is reached.", section="Training"
    ),
    "model_dir": Param(
        settings.train_model_dir or None,
        type=["null", "string"],
        description="Folder for checkpoints; each recipe gets a folder below it, and training there resumes.",
        section="Training",
    ),
    "seed": Param(0, type="integer", minimum=0, description="Initial weights, dropout and order.", section="Training"),
}


@dag(
    dag_id="pretrain_bert",
    dag_display_name="Pretrain BERT",
    doc_md=__doc__,
    schedule=[packed_dataset(settings.destination)] if settings.destination else None,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params=params,
    tags=["stowage", "training"],
)
def pretrain_bert() -> None:
    """Wire the choice of the data to the training."""

    @task
    def choose_data(*, params: dict[str, Any]) -> dict[str, str]:
        """The manifest to train on, and the folder for its checkpoints."""
        context: Context = get_current_context()
        with task_errors():
            check_options(context["dag_run"].conf, context["dag"].params)
            return choose_manifest(params, context.get("triggering_asset_events"))

    data = choose_data()
    LaunchTrainingOperator(
        task_id="train",
        options={
            "data": data["manifest"],
            "model_dir": data["model_dir"],
            **{name: f"{{{{ params.{name} }}}}" for name in params if name not in ("data", "model_dir")},
        },
    )


pretrain_bert()
