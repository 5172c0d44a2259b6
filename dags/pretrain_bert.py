"""### Pretrain BERT on a packed dataset

Runs when `refresh_packed_dataset` commits a new version of the packed dataset below the configured destination, or by
hand with the URI of a **manifest**. Training runs in processes of its own, or as a Kubernetes Job on GPUs or Gaudi
cards (**launcher**), and is an MLflow run in the experiment `bert-pretraining` that names its recipe and manifest. A
task that is stopped saves a checkpoint, and its retry goes on from there; a Job that still runs is found again.

With **compare**, a short training on the packs and on the same sequences padded (or bucketed by length) comes first;
its MLflow run has the measured speed-up beside the recipe's packing factor, and the loss curves of both over sequences
seen.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.definitions.context import Context

from stowage_airflow.assets import packed_dataset
from stowage_airflow.connections import task_errors
from stowage_airflow.notices import MODEL_TRAINED, TRAINING_FAILED, notifiers
from stowage_airflow.operators import LaunchTrainingOperator
from stowage_airflow.recipe_links import PackedDatasetLink, with_links
from stowage_airflow.requests import asks_for_comparison, check_options, choose_manifest
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
    "eval_data": Param(
        None,
        type=["null", "string"],
        title="Held-out data",
        description="Folder or prefix of raw shards to evaluate on, at the end and as often as said below.",
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
    "init_checkpoint": Param(
        None,
        type=["null", "string"],
        description="Folder or prefix of a BERT checkpoint (TF1 or TF2) to start from; empty for random weights.",
        section="Training",
    ),
    "checkpoint_every": Param(
        1000, type="integer", minimum=1, description="Steps between checkpoints.", section="Training"
    ),
    "eval_every": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Sequences between evaluations on the held-out data.",
        section="Evaluation",
    ),
    "target_mlm_accuracy": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=1,
        description="Training ends once an evaluation reaches it; MLPerf's target is 0.720.",
        section="Evaluation",
    ),
    "strategy": Param(
        "cpu",
        enum=["cpu", "mirrored", "hpu"],
        description="Where one local process computes: `mirrored` is all GPUs. Other launches decide it themselves.",
        section="Device",
    ),
    "compute_dtype": Param(
        "float32", enum=["float32", "bfloat16", "float16"], description="Of matrix products.", section="Device"
    ),
    "xla": Param(
        default=False, type="boolean", description="Compile forward and backward pass with XLA.", section="Device"
    ),
    "launcher": Param(
        settings.train_launcher,
        enum=["local", "kubernetes-gpu", "kubernetes-gaudi"],
        description="Processes of Airflow's worker, or a Job on the cluster of `kubernetes_default`.",
        section="Launch",
    ),
    "image": Param(
        settings.train_image or None,
        type=["null", "string"],
        description="Of the cluster's workers; empty for the launcher's own.",
        section="Launch",
    ),
    "namespace": Param(
        None,
        type=["null", "string"],
        description="Of the Job; empty for the one of `kubernetes_default`.",
        section="Launch",
    ),
    "workers": Param(
        1,
        type="integer",
        minimum=1,
        description="Processes or pods that train together; a comparison has one.",
        section="Launch",
    ),
    "devices": Param(1, type="integer", minimum=1, description="GPUs or Gaudi cards of each pod.", section="Launch"),
    "launch_options": Param(
        settings.train_launch_options or None,
        type=["null", "string"],
        title="Further options",
        description="Of `python -m training render`, such as --secret-env AWS_ACCESS_KEY_ID=s3:id --start-timeout 900; "
        "secrets by reference only.",
        section="Launch",
    ),
    "compare": Param(
        "no",
        enum=["no", "padded", "bucketed"],
        description="Train a while on the packs and, side by side, on the same sequences in this form.",
        section="Comparison",
    ),
    "raw": Param(
        settings.source or None,
        type=["null", "string"],
        title="Raw data",
        description="The raw shards that the manifest packs.",
        section="Comparison",
    ),
    "compare_steps": Param(
        20, type="integer", minimum=2, description="Optimizer steps of each side.", section="Comparison"
    ),
}

COMPARED = ("model", "vocab_size", "sequences_per_step", "learning_rate", "seed", "strategy", "compute_dtype", "xla")
TRAINED = (
    *COMPARED,
    "steps",
    "warmup_sequences",
    "init_checkpoint",
    "checkpoint_every",
    "eval_data",
    "eval_every",
    "target_mlm_accuracy",
)
LAUNCHED = ("image", "namespace", "devices", "launch_options")


def from_form(*names: str) -> dict[str, str]:
    """Options that have the value of the form's field of the same name."""
    return {name: f"{{{{ params.{name} }}}}" for name in names}


@dag(
    dag_id="pretrain_bert",
    dag_display_name="Pretrain BERT",
    doc_md=__doc__,
    schedule=[packed_dataset(settings.destination)] if settings.destination else None,
    catchup=False,
    max_active_runs=1,
    # Soon enough for what a lost worker costs to stay within a minute (docs/deploy.md, "Celery").
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    on_failure_callback=notifiers(settings.notify, TRAINING_FAILED) or None,
    params=params,
    render_template_as_native_obj=True,
    tags=["stowage", "training"],
)
def pretrain_bert() -> None:
    """Wire the choice of the data to the comparison, if there is to be one, and to the training."""

    @task(task_display_name="Choose data")
    def choose_data(*, params: dict[str, Any]) -> dict[str, str]:
        """The manifest to train on, and the folder for its checkpoints."""
        context: Context = get_current_context()
        with task_errors():
            check_options(context["dag_run"].conf, context["dag"].params)
            return choose_manifest(params, context.get("triggering_asset_events"))

    @task.short_circuit(task_display_name="Is a comparison asked for?", ignore_downstream_trigger_rules=False)
    def is_compared(*, params: dict[str, Any]) -> bool:
        """Whether the form asks for a comparison."""
        with task_errors():
            return asks_for_comparison(params)

    data = with_links(choose_data(), PackedDatasetLink())
    compare = LaunchTrainingOperator(
        task_id="compare",
        task_display_name="Compare packed with unpacked",
        doc_md="Trains a while on the packs and, side by side, on the same sequences in another form. Its MLflow run "
        "has the measured speed-up beside the packing factor.",
        command="compare",
        options={
            "data": data["manifest"],
            "against": "{{ params.compare }}",
            "steps": "{{ params.compare_steps }}",
            **from_form("raw", *COMPARED),
        },
        launcher="{{ params.launcher }}",
        launch=from_form(*LAUNCHED),
        pool=settings.train_pool,
    )
    train = LaunchTrainingOperator(
        task_id="train",
        task_display_name="Train",
        doc_md="Trains on the packs, with checkpoints: a retry goes on from the last one. Its MLflow run has the "
        "losses, the throughput and the evaluations.",
        command="train",
        options={"data": data["manifest"], "model_dir": data["model_dir"], **from_form(*TRAINED)},
        launcher="{{ params.launcher }}",
        launch=from_form("workers", *LAUNCHED),
        pool=settings.train_pool,
        trigger_rule="none_failed",
        on_success_callback=notifiers(settings.notify, MODEL_TRAINED),
    )
    data >> is_compared() >> compare >> train


pretrain_bert()
