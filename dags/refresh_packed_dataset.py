"""### Refresh a packed dataset

Scans the raw TFRecord shards below **source**, solves the packing recipe, writes the packed shards below
**destination** and commits them with a manifest. Only new or changed shards are read, and only the partitions that
they touch are written; a run that finds nothing changed ends in seconds and emits no asset event. One that goes back
to an earlier dataset writes nothing either, and emits one.

A **dry run** only predicts packs, speed-up, size, duration and cost, from the shards' indexes and a sample: it runs
`predict` instead of all that follows `list_shards`, and stores nothing.

The recipe is an MLflow run in the experiment `packing-recipes`. The packed dataset is an asset, one for each
destination; its events carry `recipe_id` and `manifest`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import AssetAlias, Param, dag, get_current_context, task
from airflow.sdk.definitions.context import Context

from packing.types import PARTITION_BYTES, SOLVERS
from stowage_airflow import audits, stages
from stowage_airflow.approval import ApproveRecipeOperator
from stowage_airflow.assets import PACKED_DATASETS, last_told, packed_dataset
from stowage_airflow.connections import task_errors
from stowage_airflow.groups import partitions_label, shards_label
from stowage_airflow.notices import APPROVAL_WANTED, DATASET_REFRESHED, REFRESH_FAILED, deadline_alerts, notifiers
from stowage_airflow.openlineage_facets import keep_lineage, with_lineage
from stowage_airflow.provenance import provenance_tags
from stowage_airflow.recipe_links import PackedDatasetLink, RecipeRunLink, SolvedRecipeLink, with_links
from stowage_airflow.requests import check_options, skip_unless_asked
from stowage_airflow.settings import read_settings

settings = read_settings()

PLACE = r"^(s3://[^/]+(/.*)?|/.*)$"

params = {
    "source": Param(
        settings.source or None,
        type="string",
        pattern=PLACE,
        title="Source",
        description_md="Raw TFRecord shards: `s3://bucket/prefix` or a folder that every worker sees.",
        section="Dataset",
    ),
    "destination": Param(
        settings.destination or None,
        type="string",
        pattern=PLACE,
        title="Destination",
        description_md="Where the packed dataset is kept, not below the source: `s3://bucket/prefix` or a folder.",
        section="Dataset",
    ),
    "max_sequence_length": Param(
        512, type="integer", minimum=1, maximum=65536, description="Slots a pack (L).", section="Packing"
    ),
    "max_sequences_per_pack": Param(
        3,
        type="integer",
        minimum=1,
        maximum=65536,
        description="Sequences that may share a pack (K).",
        section="Packing",
    ),
    "max_predictions_per_sequence": Param(
        76,
        type="integer",
        minimum=1,
        maximum=65536,
        description="Masked tokens of one sequence at most (P); a pack has room for P + K.",
        section="Packing",
    ),
    "solver": Param(
        "optimal",
        type="string",
        enum=list(SOLVERS),
        description_md="`optimal` proves how close it is to the best; the others are the published baselines.",
        section="Packing",
    ),
    "seed": Param(0, type="integer", minimum=0, description="Order of packs and sequences.", section="Packing"),
    "partition_bytes": Param(
        PARTITION_BYTES,
        type="integer",
        minimum=1,
        description="Sequences of at most this many bytes without padding are packed together; bounds a task's memory.",
        section="Packing",
    ),
    "time_limit": Param(
        None,
        type=["number", "null"],
        exclusiveMinimum=0,
        description="Seconds for one solve, then the best recipe so far is kept; empty: until it is proven optimal.",
        section="Packing",
    ),
    "max_rejected": Param(
        0,
        type="integer",
        minimum=0,
        description="Bad records that may be left out, and are then listed in the recipe; one more fails the run.",
        section="Dataset",
    ),
    "audit": Param(
        default=False,
        type="boolean",
        description="Derive all of it again from the raw data, even if nothing was refreshed, and keep the report.",
        section="Dataset",
    ),
    "approve_above": Param(
        settings.approve_above,
        type=["number", "null"],
        minimum=0,
        title="Ask above (percent)",
        description="Wait for a person's approval if by more than this sequences are dropped or added, or efficiency "
        "or size change, or if packs get another shape; empty: never ask.",
        section="Approval",
    ),
    "dry_run": Param(
        default=False,
        type="boolean",
        title="Dry run",
        description="Predict packs, speed-up, size and duration from the indexes and a sample; store nothing.",
        section="Dry run",
    ),
}


@dag(
    dag_id="refresh_packed_dataset",
    dag_display_name="Refresh packed dataset",
    doc_md=__doc__,
    schedule=settings.schedule,
    catchup=False,
    max_active_runs=1,  # one active refresh per destination
    # The first retry comes soon, as what a lost worker left undone holds up the rest; five last two or three minutes.
    default_args={"retries": 5, "retry_delay": timedelta(seconds=3), "retry_exponential_backoff": 2.0},
    on_failure_callback=notifiers(settings.notify, REFRESH_FAILED) or None,
    deadline=deadline_alerts(settings.notify, settings.deadline_minutes) or None,
    params=params,
    user_defined_macros={"shards_label": shards_label, "partitions_label": partitions_label},
    tags=["stowage", "packing"],
)
def refresh_packed_dataset() -> None:
    """Wire the stages."""

    @task(task_display_name="List raw shards")
    def list_shards(*, params: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """Check the request and list the raw shards; a dry run leaves none for the scan, which skips what follows."""
        context: Context = get_current_context()
        with task_errors():
            check_options(context["dag_run"].conf, context["dag"].params)
            stages.check_request(params)
            if not params["dry_run"]:  # better now than once all is packed
                stages.key_to_sign_with(required=settings.require_signature)
        groups = stages.list_shards(params, settings.parallel_tasks)
        return [] if params["dry_run"] else groups

    @task(task_display_name="Predict (dry run)", multiple_outputs=False)
    def predict(*, params: dict[str, Any]) -> dict[str, Any]:
        """Of a dry run: predict what the refresh would do, without storing anything."""
        skip_unless_asked(params, "dry_run")
        return stages.predict(params, settings.parallel_tasks, settings.price_per_hour)

    @task(
        task_display_name="Scan raw shards",
        pool=settings.store_pool,
        map_index_template="{{ shards_label(task.op_kwargs['group']) }}",
    )
    def scan(group: list[dict[str, Any]], *, params: dict[str, Any]) -> None:
        """Index new raw shards."""
        stages.scan_group(group, params)

    @task(task_display_name="Solve recipe")
    def solve(groups: list[list[dict[str, Any]]], *, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Solve the recipe and record it in MLflow."""
        context: Context = get_current_context()
        solved, writes = stages.solve(groups, params, provenance_tags(context), settings.parallel_tasks)
        context["ti"].xcom_push(key="solved", value=solved)
        return writes

    @task(
        task_display_name="Write packed shards",
        pool=settings.store_pool,
        map_index_template="{{ partitions_label(task.op_kwargs['group']) }}",
    )
    def write(group: dict[str, Any], *, params: dict[str, Any]) -> None:
        """Write packed shards."""
        stages.write_group(group, params)

    approve = ApproveRecipeOperator(
        task_id="approve",
        task_display_name="Ask for approval",
        doc_md="Waits for an answer under *Required Actions* if the new recipe differs from the current one by more "
        "than the run's **Ask above**, or in the shape of packs. A rejection skips the write and the commit.",
        notifiers=notifiers(settings.notify, APPROVAL_WANTED),
        solved_by="solve",
    )

    # The write is skipped when nothing changed, and only then is the commit to run without it.
    @task(
        task_display_name="Commit packed dataset",
        trigger_rule="none_failed_min_one_success",
        outlets=[AssetAlias(PACKED_DATASETS)],
        on_success_callback=notifiers(settings.notify, DATASET_REFRESHED),
        multiple_outputs=False,
    )
    def commit(*, params: dict[str, Any]) -> dict[str, Any]:
        """Store the manifest, and emit the asset's event unless its followers know this dataset as the current one."""
        context: Context = get_current_context()
        solved = context["ti"].xcom_pull(task_ids="solve", key="solved")
        asset = packed_dataset(params["destination"])
        committed = stages.commit(
            solved,
            params,
            tags=provenance_tags(context),
            told=last_told(asset),
            require_signature=settings.require_signature,
        )
        dataset = dict(committed.dataset)
        context["ti"].xcom_push(key="summary", value=stages.summary(committed))
        context["ti"].xcom_push(key="outcome", value={"words": committed.outcome, "refusal": committed.refusal})
        keep_lineage(context["task"], lambda: stages.datasets(dataset, params))
        if committed.outcome != stages.UNCHANGED:
            context["outlet_events"][AssetAlias(PACKED_DATASETS)].add(asset, extra=dataset)
        return dataset

    @task(task_display_name="Audit", pool=settings.store_pool)
    def audit(committed: dict[str, Any], groups: list[list[dict[str, Any]]], *, params: dict[str, Any]) -> str:
        """Audit the packed dataset, if asked to, and add the report to the recipe's run."""
        skip_unless_asked(params, "audit")
        return audits.audit(committed, groups, params, require_signature=settings.require_signature)

    groups, committed = list_shards(), with_lineage(with_links(commit(), PackedDatasetLink()))
    groups >> predict()
    solved = with_links(solve(groups), SolvedRecipeLink(), RecipeRunLink())
    written = write.expand(group=solved)
    scan.expand(group=groups) >> solved >> approve >> [written, committed]
    written >> committed
    audit(committed, groups)


refresh_packed_dataset()
