"""What OpenLineage is told of a refresh, where Airflow's provider for it is installed: raw data in, packed data out.

The provider asks an operator for its datasets when its task has ended, in a process that was forked from the task's,
so what it is told is put together while the task still runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk.exceptions import AirflowException

from packing.features import Feature, packed_features, raw_features

if TYPE_CHECKING:
    from packing.ports import InputDataset
    from packing.types import Parameters


log = logging.getLogger(__name__)


def with_lineage(result: Any) -> Any:
    """The result of a task made by a decorator, whose operator then answers for what `keep_lineage` was told."""
    result.operator.get_openlineage_facets_on_complete = _kept
    return result


def keep_lineage(operator: Any, find: Callable[[], tuple[Parameters, InputDataset, InputDataset]]) -> None:
    """Remember, for the end of the operator's task, which data it made of which (`packing.lineage`).

    Without the provider nothing is looked for. What cannot be found is not told: the task is about more than lineage.
    """
    if find_spec("airflow.providers.openlineage") is None:
        return
    try:
        operator.openlineage_datasets = find()
    except AirflowException as exc:
        log.warning("OpenLineage is not told of this task's datasets: %s", exc)


def _kept(task_instance: Any) -> Any:
    """What Airflow's provider calls; None if the task found no dataset to tell of."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    kept = getattr(task_instance.task, "openlineage_datasets", None)
    return OperatorLineage(**datasets(*kept)) if kept else None


def datasets(parameters: Parameters, raw: InputDataset, packed: InputDataset) -> dict[str, Any]:
    """OpenLineage's `inputs` and `outputs`, each with its schema, its version and its size."""
    from openlineage.client import event_v2, facet_v2

    slots, predictions = parameters.max_sequence_length, parameters.max_predictions_per_sequence
    namespace, name = place(raw.name)
    read = facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
        rowCount=raw.profile["sequences"], size=raw.profile["bytes"], fileCount=raw.profile["shards"]
    )
    inputs = event_v2.InputDataset(
        namespace,
        name,
        facets=_facets(raw_features(slots, predictions), raw.profile["fingerprint"]),
        inputFacets={"inputStatistics": read},
    )
    namespace, name = place(packed.name)
    written = facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=packed.profile["packs"], size=packed.profile["bytes"], fileCount=packed.profile["shards"]
    )
    outputs = event_v2.OutputDataset(
        namespace,
        name,
        facets=_facets(
            packed_features(slots, predictions, parameters.max_sequences_per_pack), packed.profile["recipe_id"]
        ),
        outputFacets={"outputStatistics": written},
    )
    return {"inputs": [inputs], "outputs": [outputs]}


def _facets(features: Sequence[Feature], version: str) -> dict[str, Any]:
    from openlineage.client import facet_v2

    fields = [
        facet_v2.schema_dataset.SchemaDatasetFacetFields(name=feature.name, type=f"{feature.dtype}[{feature.length}]")
        for feature in features
    ]
    return {
        "schema": facet_v2.schema_dataset.SchemaDatasetFacet(fields=fields),
        "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version),
    }


def place(uri: str) -> tuple[str, str]:
    """Namespace and name of a folder in OpenLineage's naming: by bucket and prefix, or by path."""
    parts = urlsplit(uri)
    return (f"s3://{parts.netloc}", parts.path.strip("/") or "/") if parts.scheme == "s3" else ("file", uri)
