"""Both DAGs on real parts: an S3 server, MLflow, and Airflow's own task runner."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.servers import MlflowServer
from packing.adapters import open_storage
from packing.parallel import serial
from packing.ports import Storage
from packing.recipe import read_recipe, recipe_uri
from packing.signing import check_signature
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard
from tests.dags.conftest import Airflow
from tests.dags.recording import configured, sent
from tests.packing.test_signing import KEY, OWN, private_pem, secrets_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_environment")]

REFRESH, PRETRAIN = "refresh_packed_dataset", "pretrain_bert"
OPTIONS = {"max_predictions_per_sequence": 76, "partition_bytes": 100_000}


@pytest.fixture
def storage(aws_environment: None) -> Storage:  # noqa: ARG001 - the environment that the client reads
    return open_storage()


def upload(storage: Storage, source: str, count: int = 5) -> None:
    for number in range(count):
        content = raw_shard(
            random_sizes(40, seed=number, longest=500, predictions=76), seed=number, slots=512, predictions=76
        )
        storage.write(f"{source}/part-{number}", content)


def mlflow_runs(url: str, experiment: str, count: int, **params: str) -> Any:
    """So many runs with these params; other tests may have made the same recipe for a destination of their own."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    found = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id],
        filter_string=" and ".join(f"params.{name} = '{value}'" for name, value in params.items()),
        order_by=["attributes.start_time ASC"],
    )
    assert len(found) == count
    return client, found


def test_raw_shards_become_a_packed_dataset_and_a_trained_model(
    airflow: Airflow, storage: Storage, mlflow_server: MlflowServer
) -> None:
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    upload(storage, source)

    signing = {"conn_type": "generic", "password": private_pem(OWN).decode()}
    airflow = Airflow({**airflow.environment, "AIRFLOW_CONN_STOWAGE_SIGNING": json.dumps(signing)})
    refreshed, again = airflow.run((REFRESH, OPTIONS), (REFRESH, {**OPTIONS, "audit": True}))
    assert refreshed["state"] == "success", refreshed["log"]
    assert len(refreshed["tasks"]["scan"]) > 1
    assert len(refreshed["tasks"]["write"]) > 1
    (event,) = refreshed["events"]
    assert event["uri"] == destination
    recipe = read_recipe(storage, recipe_uri(destination, event["extra"]["recipe_id"]))
    recorded = {"recipe_id": recipe.recipe_id, "destination": destination}
    assert recipe.histogram.sequences == 200
    require(verify_dataset(storage, serial(storage), event["extra"]["manifest"], source))

    client, (run,) = mlflow_runs(
        mlflow_server.url, "packing-recipes", 1, recipe_id=recipe.recipe_id, destination=destination
    )
    assert run.info.status == "FINISHED"
    assert run.data.metrics["packs"] == recipe.statistics["packs"]
    assert run.data.params["solver"] == "optimal"
    assert run.data.tags["stowage.manifest"] == event["extra"]["manifest"]
    artifacts = {entry.path.removeprefix("recipe/") for entry in client.list_artifacts(run.info.run_id, "recipe")}
    assert artifacts == {
        *("recipe.json", "manifest.json", "recipe.sig.json", "report.html", "summary.md", "figures", "tables")
    }
    assert run.data.tags["stowage.triggered_by"] == "dag_test, by hand"
    assert f"/dags/{REFRESH}/runs/manual__" in run.data.tags["airflow.dag_run_url"]
    assert run.data.metrics["partitions_reused"] == 0
    stored = Path(client.download_artifacts(run.info.run_id, "recipe/recipe.json")).read_bytes()
    assert stored == storage.read(recipe_uri(destination, recipe.recipe_id))

    assert again["state"] == "success", again["log"]
    assert again["events"] == []
    assert again["tasks"]["write"] == ["skipped"]

    assert (refreshed["tasks"]["audit"], again["tasks"]["audit"]) == (["skipped"], ["success"])
    (run,) = mlflow_runs(mlflow_server.url, "packing-recipes", 1, **recorded)[1]
    assert (run.data.tags["stowage.audit"], run.data.tags["stowage.signed_by"]) == ("passed", KEY.public.fingerprint)
    assert check_signature(storage, event["extra"]["manifest"], KEY.public).passed
    told = [outcome["log"] + json.dumps(outcome["xcoms"]) for outcome in (refreshed, again)]
    told += [str(run.to_dictionary())]
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    told += [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert KEY.public.fingerprint in "".join(told)
    assert not [secret for secret in secrets_of(private_pem(OWN)) for text in told if secret in text]

    options = {"data": event["extra"]["manifest"], "compare": "bucketed", "compare_steps": 8, "eval_data": source}
    # Each in a process of its own: `dag.test()` leaves its conf in the DAG's params.
    (trained,) = airflow.run((PRETRAIN, options))
    (more,) = airflow.run((PRETRAIN, {"data": event["extra"]["manifest"], "steps": 4}))
    for outcome, compared in ((trained, "success"), (more, "skipped")):
        assert outcome["state"] == "success", outcome["log"]
        assert outcome["tasks"]["compare"] == [compared]
    client, runs = mlflow_runs(mlflow_server.url, "bert-pretraining", 3, recipe_id=recipe.recipe_id)
    (recipe_run,) = mlflow_runs(
        mlflow_server.url, "packing-recipes", 1, recipe_id=recipe.recipe_id, destination=destination
    )[1]
    comparison, packed, run = runs
    assert {run.data.tags["stowage.recipe_run"] for run in runs} == {recipe_run.info.run_id}
    trainings = {tag for tag in recipe_run.data.tags if tag.startswith("stowage.training.")}
    assert trainings == {f"stowage.training.{run.info.run_id}" for run in (comparison, run)}
    datasets = [
        {(entry.dataset.name, entry.dataset.digest, entry.dataset.source) for entry in found.inputs.dataset_inputs}
        for found in (recipe_run, *runs)
    ]
    assert [len(inputs) for inputs in datasets] == [2, 1, 1, 1]
    assert datasets[1] == datasets[2] == datasets[3]
    assert datasets[1] < datasets[0]
    assert comparison.data.params["against"] == "bucketed"
    assert comparison.data.metrics["packing_factor"] == recipe.statistics["packing_factor"]
    assert comparison.data.metrics["speedup"] > 0
    assert packed.data.tags["mlflow.parentRunId"] == comparison.info.run_id
    linked = {entry["task"]: entry["value"] for entry in trained["xcoms"] if entry["key"] == "mlflow_run_id"}
    assert linked == {"compare": comparison.info.run_id, "train": run.info.run_id}
    assert [found.info.status for found in runs] == ["FINISHED"] * 3
    assert run.data.params["manifest"] == event["extra"]["manifest"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/mlm")] == [1, 2, 3, 4]
    assert run.data.metrics["eval/sequences"] == 200
    model_dir = airflow.environment["STOWAGE_TRAIN_MODEL_DIR"]
    documents = [info.uri for info in storage.list(model_dir) if info.uri.endswith("/checkpoints/00000004.json")]
    assert len(documents) == 1


def test_a_dry_run_predicts_the_refresh_and_leaves_nothing(
    airflow: Airflow, storage: Storage, mlflow_server: MlflowServer
) -> None:
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    upload(storage, source)
    priced = Airflow({**airflow.environment, "STOWAGE_PRICE_PER_HOUR": "3.6"})
    dry, real, after = priced.run(
        (REFRESH, {**OPTIONS, "dry_run": True}),
        (REFRESH, {**OPTIONS, "dry_run": False}),
        (REFRESH, {**OPTIONS, "dry_run": True}),
    )
    assert dry["state"] == "success", dry["log"]
    ran = {name for name, states in dry["tasks"].items() if states != ["skipped"]}
    assert ran == {"list_shards", "predict"}
    assert dry["events"] == []
    foreseen = next(
        xcom["value"] for xcom in dry["xcoms"] if (xcom["task"], xcom["key"]) == ("predict", "return_value")
    )
    assert foreseen["cost"] == pytest.approx(foreseen["seconds"] / 1000)

    assert real["state"] == "success", real["log"]
    assert real["tasks"]["predict"] == ["skipped"]
    # The recipe that the real refresh recorded is the only one: the dry run before it left none.
    recipe = read_recipe(storage, recipe_uri(destination, real["events"][0]["extra"]["recipe_id"]))
    recorded = {"recipe_id": recipe.recipe_id, "destination": destination}
    mlflow_runs(mlflow_server.url, "packing-recipes", 1, **recorded)
    assert [info.uri for info in storage.list(f"{destination}/recipes")] == [recipe_uri(destination, recipe.recipe_id)]
    for name in ("sequences", "packs", "lower_bound", "gap", "packing_efficiency", "packing_factor"):
        assert foreseen[name] == recipe.statistics[name]
    assert foreseen["output_bytes"] == sum(info.size for info in storage.list(f"{destination}/shards"))
    assert (foreseen["exact"], foreseen["shards"], foreseen["unchanged"]) == (True, 5, False)

    found = {(xcom["task"], xcom["key"]): xcom["value"] for xcom in real["xcoms"]}
    for link in (("solve", "_link_SolvedRecipeLink"), ("commit", "_link_PackedDatasetLink")):
        assert found[link].endswith(f"/stowage/recipes/{recipe.recipe_id}")
    assert found["solve", "_link_RecipeRunLink"] == f"{mlflow_server.url}/#/runs/{found['solve', 'solved']['run_id']}"
    assert f"| packs | {recipe.statistics['packs']} |" in found["commit", "summary"]

    unchanged = next(
        xcom["value"] for xcom in after["xcoms"] if (xcom["task"], xcom["key"]) == ("predict", "return_value")
    )
    assert unchanged["unchanged"]


def test_a_return_to_an_earlier_dataset_is_an_event_and_a_notice(
    airflow: Airflow, storage: Storage, tmp_path: Path
) -> None:
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    upload(storage, source, count=3)
    airflow = notifying(airflow, tmp_path / "sent")
    (first,) = airflow.run((REFRESH, OPTIONS))
    withdrawn = storage.read(f"{source}/part-2")
    storage.delete(f"{source}/part-2")
    (without,) = airflow.run((REFRESH, OPTIONS))
    storage.write(f"{source}/part-2", withdrawn)
    # What no program relies on may be lost: the asset's newest event says what its followers know.
    storage.delete(f"{destination}/latest.json")
    storage.delete(f"{destination}/index/current.json")
    (back,) = airflow.run((REFRESH, OPTIONS))
    (again,) = airflow.run((REFRESH, {**OPTIONS, "audit": True}))
    extras = [event["extra"] for outcome in (first, without, back, again) for event in outcome["events"]]
    assert len(extras) == 3, back["log"]
    assert (extras[0] == extras[2], extras[0] == extras[1]) == (True, False)
    outcomes = [
        xcom["value"]["words"]
        for outcome in (first, without, back, again)
        for xcom in outcome["xcoms"]
        if (xcom["task"], xcom["key"]) == ("commit", "outcome")
    ]
    refreshed, returned = "the packed dataset was refreshed", "an earlier packed dataset is current again"
    assert outcomes == [refreshed, refreshed, returned, "nothing changed"]
    assert sent(tmp_path / "sent").keys() == {f"{REFRESH}: {words}" for words in outcomes}
    assert again["tasks"]["audit"] == ["success"]


def test_openlineage_is_told_of_raw_and_packed_data(airflow: Airflow, storage: Storage, tmp_path: Path) -> None:
    pytest.importorskip("airflow.providers.openlineage")
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    upload(storage, source)
    file = tmp_path / "events"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    told = Airflow({**airflow.environment, "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)})
    (outcome,) = told.run((REFRESH, OPTIONS))
    assert outcome["state"] == "success", outcome["log"]
    recipe = read_recipe(storage, recipe_uri(destination, outcome["events"][0]["extra"]["recipe_id"]))
    events = [json.loads(line) for line in file.read_text().splitlines()]
    (event,) = (e for e in events if e["eventType"] == "COMPLETE" and e["job"]["name"] == f"{REFRESH}.commit")
    (raw,), (packed,) = event["inputs"], event["outputs"]
    assert {(raw["namespace"], raw["name"]), (packed["namespace"], packed["name"])} == {
        ("s3://raw", tmp_path.name),
        ("s3://packed", tmp_path.name),
    }
    assert raw["facets"]["version"]["datasetVersion"] == recipe.fingerprint
    assert packed["facets"]["version"]["datasetVersion"] == recipe.recipe_id
    assert len(raw["facets"]["schema"]["fields"]) == 7
    assert {"name": "positions", "type": "int64[512]"}.items() <= packed["facets"]["schema"]["fields"][3].items()
    assert raw["inputFacets"]["inputStatistics"]["rowCount"] == recipe.histogram.sequences
    written = [info.size for info in storage.list(f"{destination}/shards")]
    statistics = packed["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (
        recipe.statistics["packs"],
        sum(written),
        len(written),
    )


def notifying(airflow: Airflow, file: Path) -> Airflow:
    """The same, with notices to this file."""
    return Airflow({**airflow.environment, "STOWAGE_NOTIFY": configured(file)})


def test_a_recipe_that_differs_too_much_waits_for_a_person(
    airflow: Airflow, storage: Storage, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    airflow = notifying(airflow, tmp_path / "sent")
    upload(storage, source)
    ask = {**OPTIONS, "approve_above": 10}
    (first,) = airflow.run((REFRESH, ask))
    assert first["state"] == "success", first["log"]
    storage.delete(f"{source}/part-4")
    before = {info.uri for part in ("manifests", "shards") for info in storage.list(f"{destination}/{part}")}
    rejected, tolerated = airflow.run((REFRESH, ask, "Reject"), (REFRESH, {**OPTIONS, "approve_above": 50}))
    assert rejected["state"] == "success", rejected["log"]
    (asked,) = rejected["asked"]
    assert (asked["as_viewer"], asked["as_admin"]) == (403, 200)
    assert "| sequences kept | 200 | 160 | **20 %** |" in asked["body"]
    assert destination in asked["subject"]
    wanted = sent(tmp_path / "sent")[f"{REFRESH} waits for an approval"]
    assert wanted.startswith(f"The recipe of `{source}` for `{destination}` differs from the current one: sequences")
    assert wanted.endswith("/tasks/approve/required_actions")
    assert {name: rejected["tasks"][name] for name in ("solve", "approve", "write", "commit")} == {
        "solve": ["success"],
        "approve": ["success"],
        "write": ["skipped"],
        "commit": ["skipped"],
    }
    assert rejected["events"] == []
    assert "ada chose Reject" in rejected["log"]
    (answer,) = (xcom["value"] for xcom in rejected["xcoms"] if (xcom["task"], xcom["key"]) == ("approve", "answer"))
    assert answer == {"answer": "Reject", "by": "ada"}
    assert tolerated["tasks"]["commit"] == ["success"], tolerated["log"]
    assert tolerated["asked"] == []
    recipe_id = tolerated["events"][0]["extra"]["recipe_id"]
    (run,) = mlflow_runs(mlflow_server.url, "packing-recipes", 1, recipe_id=recipe_id, destination=destination)[1]
    assert run.info.status == "FINISHED"
    assert re.fullmatch("rejected by ada, .* UTC, asked above 10 %", run.data.tags["stowage.approval"])
    assert run.data.tags["stowage.manifest"] == tolerated["events"][0]["extra"]["manifest"]
    after = {info.uri for part in ("manifests", "shards") for info in storage.list(f"{destination}/{part}")}
    assert before < after

    storage.delete(f"{source}/part-3")
    (approved,) = airflow.run((REFRESH, ask, "Approve"))
    assert approved["tasks"]["commit"] == ["success"], approved["log"]
    assert len(approved["asked"]) == len(approved["events"]) == 1
    require(verify_dataset(storage, serial(storage), approved["events"][0]["extra"]["manifest"], source))


def test_bad_input_fails_without_retries_and_leaves_no_manifest(airflow: Airflow, storage: Storage) -> None:
    source, destination = airflow.environment["STOWAGE_SOURCE"], airflow.environment["STOWAGE_DESTINATION"]
    upload(storage, source, count=2)
    content = bytearray(storage.read(f"{source}/part-1"))
    content[-10] ^= 1
    storage.write(f"{source}/part-1", content)
    (outcome,) = airflow.run((REFRESH, OPTIONS))
    assert outcome["state"] == "failed"
    assert "failed" in outcome["tasks"]["scan"]
    assert "up_for_retry" not in outcome["tasks"]["scan"]
    assert f"{source}/part-1: record 39 at offset" in outcome["log"]
    assert storage.list(f"{destination}/manifests") == []


def test_a_request_that_cannot_work_fails_without_retries(airflow: Airflow, storage: Storage) -> None:
    source = airflow.environment["STOWAGE_SOURCE"]
    storage.write(f"{source}-other/not-a-manifest.json", json.dumps({"a": 1}).encode())
    expected = {
        (REFRESH, "max_sequences_per_pak", 3): "unknown options max_sequences_per_pak",
        (REFRESH, "seed", 0): "expected raw TFRecord shards, found none",
        (REFRESH, "destination", source): "is below source",
        (PRETRAIN, "seed", 0): "data: expected the URI of a manifest",
        (PRETRAIN, "dta", "x"): "unknown options dta",
        (PRETRAIN, "data", f"{source}-other/not-a-manifest.json"): "not a manifest",
    }
    outcomes = airflow.run(*((dag_id, {name: value}) for dag_id, name, value in expected))
    for outcome, message in zip(outcomes, expected.values(), strict=True):
        assert outcome["state"] == "failed"
        assert message in outcome["log"]
        assert not {"up_for_retry", "success"} & {states[0] for states in list(outcome["tasks"].values())[-1:]}


def test_a_key_that_cannot_sign_ends_a_refresh_before_it_begins(airflow: Airflow, storage: Storage) -> None:
    upload(storage, airflow.environment["STOWAGE_SOURCE"], count=1)
    odd = {"AIRFLOW_CONN_STOWAGE_SIGNING": json.dumps({"conn_type": "generic", "password": "no key"})}
    dry, refreshed = Airflow({**airflow.environment, **odd}).run(
        (REFRESH, {**OPTIONS, "dry_run": True}), (REFRESH, {**OPTIONS, "dry_run": False})
    )
    assert dry["state"] == "success", dry["log"]
    assert (refreshed["state"], refreshed["tasks"]["list_shards"]) == ("failed", ["failed"])
    assert "connection stowage_signing: password: expected an Ed25519 private key in PEM" in refreshed["log"]
    assert storage.list(airflow.environment["STOWAGE_DESTINATION"]) == []


@pytest.mark.exhaustive
def test_where_a_signature_is_required_a_refresh_without_a_key_is_tried_again_before_it_begins(
    airflow: Airflow, storage: Storage
) -> None:
    """Which takes as long as its retries."""
    upload(storage, airflow.environment["STOWAGE_SOURCE"], count=1)
    (refused,) = Airflow({**airflow.environment, "STOWAGE_REQUIRE_SIGNATURE": "true"}).run((REFRESH, OPTIONS))
    assert (refused["state"], refused["tasks"]["list_shards"]) == ("failed", ["failed"])
    assert refused["log"].count("AirflowException: connection stowage_signing: expected a key to sign with") > 1
    assert storage.list(airflow.environment["STOWAGE_DESTINATION"]) == []


def test_dag_files_import_nothing_heavy(airflow_environment: dict[str, str]) -> None:
    import subprocess
    import sys

    script = (
        "import sys; import airflow.sdk, airflow.sdk.definitions.context; import refresh_packed_dataset, pretrain_bert;"
        "heavy = {'tensorflow', 'mlflow', 'boto3', 'scipy', 'highspy', 'matplotlib', 'kubernetes_asyncio'};"
        "heavy &= set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    dags = airflow_environment["AIRFLOW__CORE__DAGS_FOLDER"]
    path = f"{airflow_environment['PYTHONPATH']}:{dags}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env={**airflow_environment, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
