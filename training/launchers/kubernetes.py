"""A training run as Kubernetes manifests: an Indexed Job, and a headless Service by which several workers meet.

Pod i of the Job NAME is worker i, and its host NAME-i.NAME: stable names, whatever node it runs on and however often it
is replaced. TF_CONFIG is the same text for all pods but for the index, which Kubernetes puts in when it starts one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from packing.errors import InputError, UsageError, VerificationError
from training.launchers.config import CACHE, SHARED_MEMORY, TEMPORARY, LaunchConfig, Resources, check_no_password
from training.preemption import PreemptedError

Manifest = dict[str, Any]

PORT = 2222
"""On which TensorFlow's workers meet."""
CONTAINER = "training"
"""Of each pod; whoever else works on the cluster may add others."""
NO_RETRY_STATUSES = tuple(sorted(error.exit_status for error in (UsageError, InputError, VerificationError)))
"""Another attempt would end in the same way."""

_PROBE_SECONDS = 10


@dataclass(frozen=True)
class Device:
    """What a kind of device asks of its pods; `host_ipc` is the host's shared memory in place of the pod's own."""

    resource: str
    image: str
    resources: Resources
    capabilities: tuple[str, ...] = ()
    host_ipc: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


GPU = Device(
    resource="nvidia.com/gpu",
    image="stowage-gpu:0.1.0",
    resources=Resources(cpu="8", memory="64Gi", shared_memory="8Gi", cache_size="100Gi"),
)
# What Habana's documentation asks for 8 cards (409 GiB of memory, 95000 MiB of huge pages), divided by 8.
GAUDI = Device(
    resource="habana.ai/gaudi",
    image="stowage-gaudi:0.1.0",
    resources=Resources(cpu="12", memory="52Gi", shared_memory="8Gi", cache_size="100Gi", hugepages="11876Mi"),
    capabilities=("SYS_NICE",),
    host_ipc=True,
    environment={"TF_RECIPE_CACHE_PATH": f"{CACHE}/recipes", "HABANA_LOGS": f"{TEMPORARY}/habana_logs"},
)


def kubernetes_gpu(config: LaunchConfig, command: Sequence[str]) -> list[Manifest]:
    """Run `command` on NVIDIA GPUs, all `devices` of a worker in one process; needs NVIDIA's device plugin."""
    return _manifests(config, command, GPU)


def kubernetes_gaudi(config: LaunchConfig, command: Sequence[str]) -> list[Manifest]:
    """Run `command` on Gaudi cards, one a worker, as HPUStrategy computes on one card a process.

    Needs Habana's device plugin, huge pages on the nodes, and a namespace that allows hostIPC and SYS_NICE.
    """
    if config.devices != 1:
        raise UsageError(f"devices: a Gaudi worker computes on 1 card, got {config.devices}; ask for more workers")
    return _manifests(config, command, GAUDI)


def worker_addresses(config: LaunchConfig) -> list[str]:
    """`host:port` of each worker, as the pods of the namespace see it."""
    return [f"{config.name}-{index}.{config.name}:{PORT}" for index in range(config.workers)]


def _manifests(config: LaunchConfig, command: Sequence[str], device: Device) -> list[Manifest]:
    for argument in command:
        check_no_password("command", argument)
    job = _job(config, command, device)
    return [_service(config), job] if config.workers > 1 else [job]


def _metadata(config: LaunchConfig) -> Manifest:
    return {"name": config.name, "namespace": config.namespace, "labels": _labels(config)}


def _labels(config: LaunchConfig) -> dict[str, str]:
    return {**config.labels, **_selector(config), "app.kubernetes.io/component": "training"}


def _selector(config: LaunchConfig) -> dict[str, str]:
    return {"app.kubernetes.io/name": "stowage", "app.kubernetes.io/instance": config.name}


def _service(config: LaunchConfig) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(config),
        "spec": {
            "clusterIP": "None",
            # Workers are ready only once they have met, for which they need the names.
            "publishNotReadyAddresses": True,
            "selector": _selector(config),
            "ports": [{"name": "tensorflow", "port": PORT}],
        },
    }


def _job(config: LaunchConfig, command: Sequence[str], device: Device) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(config),
        "spec": {
            "completionMode": "Indexed",
            "completions": config.workers,
            "parallelism": config.workers,
            "backoffLimit": config.restarts * config.workers,
            "activeDeadlineSeconds": config.active_deadline_seconds,
            "ttlSecondsAfterFinished": config.ttl_seconds_after_finished,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": _labels(config)}, "spec": _pod(config, command, device)},
        },
    }


def _failure_rules() -> list[Manifest]:
    """The first that fits decides; a failure that none fits counts towards the limit."""

    def on_statuses(action: str, statuses: Sequence[int]) -> Manifest:
        return {
            "action": action,
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(statuses)},
            "onPodConditions": [],  # the first schemas that had the policy want them in every rule
        }

    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    final = on_statuses("FailJob", list(NO_RETRY_STATUSES))
    return [final, on_statuses("Ignore", [PreemptedError.exit_status]), disrupted]


def _pod(config: LaunchConfig, command: Sequence[str], device: Device) -> Manifest:
    placement = {
        "serviceAccountName": config.service_account,
        "priorityClassName": config.priority_class,
        "nodeSelector": dict(config.node_selector),
        "tolerations": [_toleration(asdict(toleration)) for toleration in config.tolerations],
        "subdomain": config.name if config.workers > 1 else None,
        "hostIPC": device.host_ipc,
    }
    volumes = _volumes(config, device)
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": config.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # A process that is number 1 ignores SIGTERM until it handles it, which Python does only once training runs.
        "shareProcessNamespace": True,
        **{name: value for name, value in placement.items() if value},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": config.user_id,
            "runAsGroup": config.user_id,
            "fsGroup": config.user_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config, command, device, [(volume["name"], path) for path, volume in volumes])],
        "volumes": [volume for _, volume in volumes],
    }


def _toleration(fields: Mapping[str, str | None]) -> Manifest:
    operator = "Exists" if fields["value"] is None else "Equal"
    return {"operator": operator, **{name: value for name, value in fields.items() if value is not None}}


def _volumes(config: LaunchConfig, device: Device) -> list[tuple[str, Manifest]]:
    """Volumes by the path at which a worker sees them: what it may write to, and its secrets."""
    resources = config.resources
    volumes = [
        (CACHE, {"name": "cache", "emptyDir": {"sizeLimit": resources.cache_size}}),
        (TEMPORARY, {"name": "temporary", "emptyDir": {}}),
    ]
    if not device.host_ipc:
        shared_memory = {"medium": "Memory", "sizeLimit": resources.shared_memory}
        volumes.append((SHARED_MEMORY, {"name": "shared-memory", "emptyDir": shared_memory}))
    for number, secret in enumerate(config.secret_volumes):
        source = {"secretName": secret.secret, "defaultMode": 0o440}
        volumes.append((secret.path, {"name": f"secret-{number}", "secret": source}))
    return volumes


def _container(
    config: LaunchConfig, command: Sequence[str], device: Device, mounts: Sequence[tuple[str, str]]
) -> Manifest:
    secret_mounts = {volume.path for volume in config.secret_volumes}
    limits = {
        "cpu": config.resources.cpu,
        "memory": config.resources.memory,
        device.resource: str(config.devices),
    }
    if config.resources.hugepages:
        limits["hugepages-2Mi"] = config.resources.hugepages
    return {
        "name": CONTAINER,
        "image": config.image,
        "command": [_escaped(argument) for argument in command],
        "env": _environment(config, device),
        "resources": {"requests": {**limits, "ephemeral-storage": config.resources.cache_size}, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], **({"add": list(device.capabilities)} if device.capabilities else {})},
        },
        "volumeMounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if path in secret_mounts else {})}
            for name, path in mounts
        ],
        **(_meeting(config) if config.workers > 1 else {}),
    }


def _meeting(config: LaunchConfig) -> Manifest:
    """A worker listens before it waits for the others, so one that does not hangs, and is killed."""
    probe = {
        "tcpSocket": {"port": PORT},
        "periodSeconds": _PROBE_SECONDS,
        "failureThreshold": -(-config.start_timeout // _PROBE_SECONDS),
    }
    return {"ports": [{"name": "tensorflow", "containerPort": PORT}], "startupProbe": probe}


def _environment(config: LaunchConfig, device: Device) -> list[Manifest]:
    secret = {variable.name: variable for variable in config.secret_variables}
    plain = {
        "PYTHONUNBUFFERED": "1",
        "HOME": TEMPORARY,
        "XDG_CACHE_HOME": CACHE,
        "NUMBA_CACHE_DIR": f"{CACHE}/numba",
        **device.environment,
        **config.environment,
    }
    return [
        *({"name": name, "value": _escaped(value)} for name, value in plain.items() if name not in secret),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": variable.secret, "key": variable.key}}}
            for name, variable in secret.items()
        ),
        *(_cluster(config) if config.workers > 1 else []),
    ]


def _cluster(config: LaunchConfig) -> list[Manifest]:
    """TF_CONFIG, with the pod's index put in by Kubernetes, which knows only variables that stand before."""
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    workers = json.dumps({"worker": worker_addresses(config)})
    text = f'{{"cluster": {workers}, "task": {{"type": "worker", "index": $(WORKER_INDEX)}}}}'
    return [{"name": "WORKER_INDEX", "valueFrom": index}, {"name": "TF_CONFIG", "value": text}]


def _escaped(text: str) -> str:
    """`text` as Kubernetes passes it on unchanged, in place of putting variables in."""
    return text.replace("$", "$$")
