"""The options of `python -m training render` that say where a run is launched."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from packing.errors import UsageError
from training.launchers.config import EFFECTS, LaunchConfig, SecretVariable, SecretVolume, Toleration
from training.launchers.kubernetes import GAUDI, GPU, Device, Manifest, kubernetes_gaudi, kubernetes_gpu


@dataclass(frozen=True)
class Launcher:
    """A way to launch: its device's defaults, its manifests, and the strategies for one worker and for several."""

    device: Device
    manifests: Callable[[LaunchConfig, Sequence[str]], list[Manifest]]
    strategies: tuple[str, str]


LAUNCHERS: Mapping[str, Launcher] = {
    "kubernetes-gpu": Launcher(GPU, kubernetes_gpu, ("mirrored", "multi-worker")),
    "kubernetes-gaudi": Launcher(GAUDI, kubernetes_gaudi, ("hpu", "hpu")),
}

_TEXTS = {
    "name": "of the Job, its pods and its Service",
    "namespace": "where they live",
    "priority_class": "PriorityClass of the pods",
    "service_account": "of the pods, which get no token of it",
}
_NUMBERS = {
    "workers": "pods",
    "devices": "devices a worker",
    "user_id": "user and group that the pods run as",
    "restarts": "how many workers may fail for each worker; stops and evictions do not count",
    "start_timeout": "seconds for each of several workers to answer",
    "grace_seconds": "seconds from SIGTERM to SIGKILL, for a step and a checkpoint",
    "ttl_seconds_after_finished": "seconds until Kubernetes removes the finished Job",
    "active_deadline_seconds": "seconds for all attempts together",
}
_RESOURCES = {
    "cpu": "CPUs of a worker",
    "memory": "of a worker",
    "shared_memory": "bound of /dev/shm, which counts as memory; Gaudi uses the host's",
    "cache_size": "bound of the local copies of shards on the node's disk",
    "hugepages": "huge pages of 2 MiB of a worker",
}


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Everything in LaunchConfig, and which launcher."""
    parser.add_argument("--launcher", required=True, choices=LAUNCHERS)
    group = parser.add_argument_group("where to run")
    group.add_argument("--image", help=f"image with this software ({_defaults('image')})")
    defaults = {field.name: field.default for field in fields(LaunchConfig)}
    for name, text in _TEXTS.items():
        group.add_argument(_flag(name), default=defaults[name], help=f"{text} ({defaults[name] or 'none'})")
    for name, text in _NUMBERS.items():
        help_text = f"{text} ({defaults[name]})"
        group.add_argument(_flag(name), type=int, default=defaults[name], metavar="N", help=help_text)
    for name, text in _RESOURCES.items():
        group.add_argument(_flag(name), metavar="QUANTITY", help=f"{text} ({_defaults(name)})")
    for name, metavar, text in (
        ("node-selector", "LABEL=VALUE", "nodes to run on"),
        ("toleration", "KEY[=VALUE][:EFFECT]", "taint of nodes to run on all the same"),
        ("label", "LABEL=VALUE", "further label of the Job, its pods and its Service"),
        ("env", "NAME=VALUE", "environment variable; none of yours is passed on"),
        ("secret-env", "NAME=SECRET:KEY", "environment variable with a value that a Secret keeps"),
        ("secret-volume", "SECRET:PATH", "folder with the files that a Secret keeps"),
    ):
        group.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=f"{text}; repeatable")


def launch_config(options: argparse.Namespace) -> LaunchConfig:
    """What `add_launch_options` has parsed; raises UsageError for what cannot work."""
    device = LAUNCHERS[options.launcher].device
    given = {name: getattr(options, name) for name in _RESOURCES if getattr(options, name) is not None}
    return LaunchConfig(
        **{name: getattr(options, name) for name in (*_TEXTS, *_NUMBERS)},
        image=options.image or device.image,
        resources=replace(device.resources, **given),
        node_selector=_pairs("--node-selector", options.node_selector),
        tolerations=tuple(map(_toleration, options.toleration)),
        labels=_pairs("--label", options.label),
        environment=_pairs("--env", options.env),
        secret_variables=tuple(map(_secret_variable, options.secret_env)),
        secret_volumes=tuple(map(_secret_volume, options.secret_volume)),
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _defaults(name: str) -> str:
    """Of each launcher's device, or of that device's resources."""
    values = {
        launcher: {**vars(kind.device), **vars(kind.device.resources)}[name] for launcher, kind in LAUNCHERS.items()
    }
    return ", ".join(f"{value or 'none'} for {launcher}" for launcher, value in values.items())


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        # Values are not repeated: they may be secrets that should have been references.
        if not equals or name in pairs:
            raise UsageError(f"{flag}: expected NAME=VALUE, each name once, got {name if equals else 'no ='}")
        pairs[name] = value
    return pairs


def _toleration(text: str) -> Toleration:
    taint, _, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if ":" in text and effect not in EFFECTS:
        raise UsageError(f"--toleration {text}: expected an effect of {', '.join(EFFECTS)} after the colon")
    return Toleration(key, value if equals else None, effect or None)


def _secret_variable(text: str) -> SecretVariable:
    name, _, reference = text.partition("=")
    secret, _, key = reference.partition(":")
    return SecretVariable(name, secret, key)


def _secret_volume(text: str) -> SecretVolume:
    secret, _, path = text.partition(":")
    return SecretVolume(secret, path)
