from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import ValidationError

from packing.errors import UsageError
from tests.launchers.kubelet import check_schemas, container, started
from training.devices import Worker, this_worker
from training.launchers.config import (
    EFFECTS,
    SHARED_MEMORY,
    LaunchConfig,
    Resources,
    SecretVariable,
    SecretVolume,
    Toleration,
)
from training.launchers.kubernetes import GAUDI, GPU, kubernetes_gaudi, kubernetes_gpu

COMMAND = ["python", "-m", "training", "train", "--json"]

words = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
keys = st.builds("{}/{}".format, words, words) | words
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="@")) | st.sampled_from(
    ["$(HOME)", "$$(HOME)", "$", "$(WORKER_INDEX)", "1e3", "yes"]
)
variables = st.from_regex(r"A_[A-Z]{1,9}", fullmatch=True)
references = st.builds(SecretVariable, st.from_regex(r"B_[A-Z]{1,9}", fullmatch=True), words, words)
tolerations = st.builds(Toleration, keys, st.none() | words, st.none() | st.sampled_from(EFFECTS))


def unique(values: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3, unique_by=lambda value: getattr(value, name)).map(tuple)


def configs(resources: Resources, most_devices: int) -> st.SearchStrategy[LaunchConfig]:
    return st.builds(
        LaunchConfig,
        image=st.sampled_from(["registry.example.org:5000/team/train:1.0", "train@sha256:" + "0" * 64]),
        resources=st.just(resources),
        name=words,
        namespace=words,
        workers=st.integers(1, 64),
        devices=st.integers(1, most_devices),
        node_selector=st.dictionaries(keys, words, max_size=2),
        tolerations=st.lists(tolerations, max_size=2).map(tuple),
        priority_class=st.none() | words,
        service_account=st.none() | words,
        environment=st.dictionaries(variables, texts, max_size=3),
        secret_variables=unique(references, "name"),
        secret_volumes=unique(st.builds(SecretVolume, words, words.map("/secrets/{}".format)), "path"),
        labels=st.dictionaries(keys, words, max_size=2),
        start_timeout=st.integers(10, 10**6),
    )


def job_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return next(manifest for manifest in manifests if manifest["kind"] == "Job")


@pytest.mark.slow
@given(configs(GPU.resources, 16), st.lists(texts))
def test_gpu_manifests_are_valid_and_start_what_was_asked(config: LaunchConfig, arguments: list[str]) -> None:
    manifests = kubernetes_gpu(config, [*COMMAND, *arguments])
    check_run(config, manifests, [*COMMAND, *arguments])
    check_restricted(job_of(manifests))
    assert container(job_of(manifests))["resources"]["limits"]["nvidia.com/gpu"] == str(config.devices)


@pytest.mark.slow
@given(configs(GAUDI.resources, 1))
def test_gaudi_manifests_are_valid_and_have_what_habana_asks_for(config: LaunchConfig) -> None:
    manifests = kubernetes_gaudi(config, COMMAND)
    check_run(config, manifests, COMMAND)
    job = job_of(manifests)
    limits = container(job)["resources"]["limits"]
    assert limits == {"cpu": "12", "memory": "52Gi", "habana.ai/gaudi": "1", "hugepages-2Mi": "11876Mi"}
    assert job["spec"]["template"]["spec"]["hostIPC"] is True
    assert container(job)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_NICE"]}
    assert SHARED_MEMORY not in {mount["mountPath"] for mount in container(job)["volumeMounts"]}


def check_run(config: LaunchConfig, manifests: list[dict[str, Any]], command: list[str]) -> None:
    """What holds for any device."""
    assert [manifest["kind"] for manifest in manifests] == ["Service", "Job"][config.workers == 1 :]
    for manifest in manifests:
        check_schemas(manifest)
        assert manifest["metadata"]["namespace"] == config.namespace
    job = job_of(manifests)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == (
        "Indexed", config.workers, config.workers,
    )  # fmt: skip
    requests, limits = container(job)["resources"]["requests"], container(job)["resources"]["limits"]
    assert limits.items() <= requests.items()
    assert container(job)["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {mount["name"] for mount in container(job)["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for index in {0, config.workers - 1}:
        given_command, environment = started(job, index)
        assert given_command == command
        assert config.environment.items() <= environment.items()
        assert {(x.name, f"{x.secret}:{x.key}") for x in config.secret_variables} <= environment.items()
    check_meeting(config, manifests)


def check_meeting(config: LaunchConfig, manifests: list[dict[str, Any]]) -> None:
    """Each worker finds itself among all of them, under names that the Service makes."""
    job = job_of(manifests)
    hosts = [f"{config.name}-{index}" for index in range(config.workers)]
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", host) for host in hosts)
    if config.workers == 1:
        assert "TF_CONFIG" not in started(job, 0)[1]
        return
    service, pod = manifests[0], job["spec"]["template"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (port,) = {port["port"] for port in service["spec"]["ports"]}
    addresses = [f"{host}.{service['metadata']['name']}:{port}" for host in hosts]
    for index in range(config.workers):
        text = started(job, index)[1]["TF_CONFIG"]
        assert json.loads(text)["cluster"] == {"worker": addresses}
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TF_CONFIG", text)
            assert this_worker("multi-worker") == this_worker("hpu") == Worker(index, config.workers)
    probe = container(job)["startupProbe"]
    assert probe["tcpSocket"] == {"port": port}
    assert 0 <= probe["failureThreshold"] * probe["periodSeconds"] - config.start_timeout < probe["periodSeconds"]


def check_restricted(job: dict[str, Any]) -> None:
    """The strictest of Kubernetes' Pod Security Standards."""
    pod, security = job["spec"]["template"]["spec"], container(job)["securityContext"]
    assert not {"hostIPC", "hostNetwork", "hostPID"} & set(pod)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["allowPrivilegeEscalation"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir", "secret"}


@pytest.mark.parametrize(
    ("status", "disrupted", "action"),
    [
        (1, False, "Count"),
        (2, False, "FailJob"),
        (3, False, "FailJob"),
        (4, True, "FailJob"),
        (5, False, "Count"),
        (42, False, "Ignore"),
        (42, True, "Ignore"),
        (137, True, "Ignore"),
        (137, False, "Count"),
    ],
)
def test_what_becomes_of_a_failed_worker(*, status: int, disrupted: bool, action: str) -> None:
    spec = job_of(kubernetes_gpu(LaunchConfig("train", GPU.resources, workers=4, restarts=3), COMMAND))["spec"]
    assert spec["backoffLimit"] == 12
    assert spec["template"]["spec"]["restartPolicy"] == "Never"

    def fits(rule: dict[str, Any]) -> bool:
        codes = rule.get("onExitCodes")
        if codes is None:
            return disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert (codes["operator"], codes["containerName"]) == ("In", container({"spec": spec})["name"])
        return status in codes["values"]

    rules = spec["podFailurePolicy"]["rules"]
    assert next((rule["action"] for rule in rules if fits(rule)), "Count") == action


@given(st.integers(2, 10**5))
@example(10)
@example(11)
def test_the_longest_name_still_makes_host_names(workers: int) -> None:
    longest = "x" * (63 - len(f"-{workers - 1}"))
    assert LaunchConfig("train", GPU.resources, name=longest, workers=workers).name == longest
    with pytest.raises(UsageError, match="name"):
        LaunchConfig("train", GPU.resources, name=longest + "x", workers=workers)


def test_a_gaudi_worker_has_one_card() -> None:
    with pytest.raises(UsageError, match="more workers"):
        kubernetes_gaudi(LaunchConfig("train", GAUDI.resources, devices=8), COMMAND)


def test_a_password_in_the_command_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="command") as refused:
        kubernetes_gpu(LaunchConfig("train", GPU.resources), [*COMMAND, "--tracking-uri=https://me:canary@mlflow"])
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("path", [("spec",), ("spec", "template", "spec"), ("metadata",)])
def test_the_schemas_know_all_fields(path: tuple[str, ...]) -> None:
    job = job_of(kubernetes_gpu(LaunchConfig("train", GPU.resources), COMMAND))
    place = job
    for name in path:
        place = place[name]
    place["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        check_schemas(job)
