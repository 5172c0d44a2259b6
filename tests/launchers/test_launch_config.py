from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import UsageError
from training.launchers.config import (
    LaunchConfig,
    Resources,
    SecretVariable,
    SecretVolume,
    Toleration,
    quantity_bytes,
)
from training.launchers.kubernetes import GPU

CONFIG = LaunchConfig("train", GPU.resources)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ""},
        {"image": "two words"},
        {"image": "-x"},
        {"name": "Upper"},
        {"name": "1st"},
        {"name": "ends-"},
        {"name": "dotted.name"},
        {"name": ""},
        {"namespace": "a.b"},
        {"namespace": "x" * 64},
        {"workers": 0},
        {"devices": 0},
        {"user_id": 0},
        {"restarts": -1},
        {"restarts": 2**30, "workers": 2},
        {"start_timeout": 9},
        {"grace_seconds": 2**31},
        {"active_deadline_seconds": 0},
        {"priority_class": "High"},
        {"service_account": ""},
        {"node_selector": {"a b": "c"}},
        {"node_selector": {"Example.org/x": "c"}},
        {"node_selector": {"zone": "x" * 64}},
        {"labels": {"team": "-"}},
        {"labels": {"app.kubernetes.io/instance": "other"}},
        {"environment": {"1A": "x"}},
        {"environment": {"TF_CONFIG": "{}"}},
        {"environment": {"X": "1"}, "secret_variables": (SecretVariable("X", "s", "k"),)},
        {"secret_volumes": (SecretVolume("a", "/s"), SecretVolume("b", "/s"))},
        {"secret_volumes": (SecretVolume("a", "/tmp"),)},  # noqa: S108 - a path in a pod
    ],
)
def test_what_kubernetes_would_refuse_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": "0"},
        {"cpu": "0.0"},
        {"cpu": "-1"},
        {"cpu": "8Gi"},
        {"cpu": "1.5m"},
        {"memory": "64gb"},
        {"memory": "0"},
        {"memory": "1.5Gi"},
        {"shared_memory": ""},
        {"cache_size": "lots"},
        {"hugepages": "11875Mi"},
        {"hugepages": "1M"},
    ],
)
def test_quantities_are_checked(changes: dict[str, str]) -> None:
    (name,) = changes
    with pytest.raises(UsageError, match=f"^{name}: expected"):
        replace(GPU.resources, **changes)


@pytest.mark.parametrize("path", ["", "/", "a", "/a/", "/a//b", "/a/../tmp", "/.", "/a b", "/proc", "/dev/shm/x"])  # noqa: S108
def test_paths_that_would_hide_what_a_worker_needs_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="secret volume s: expected"):
        SecretVolume("s", path)


@pytest.mark.parametrize("path", ["/secrets", "/etc/ssl/..data", "/process/a.b-c_d", "/.aws"])
def test_other_paths_are_taken(path: str) -> None:
    assert SecretVolume("s", path).path == path


def test_quantities_mean_bytes() -> None:
    wanted = {"5": 5, "2k": 2000, "3Ki": 3072, "1M": 10**6, "64Gi": 64 * 2**30, "1T": 10**12, "2Ti": 2**41}
    assert {text: quantity_bytes("memory", text) for text in wanted} == wanted
    assert Resources("0.5", "1", "1", "1", "2Mi").hugepages == "2Mi"


@pytest.mark.parametrize(("key", "value", "effect"), [("", None, None), ("a", "b c", None), ("a", None, "Never")])
def test_tolerations_are_checked(key: str, value: str | None, effect: str | None) -> None:
    with pytest.raises(UsageError, match="toleration"):
        Toleration(key, value, effect)


@given(st.sampled_from(["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"]))
def test_a_variable_that_looks_like_a_secret_must_be_a_reference(name: str) -> None:
    with pytest.raises(UsageError, match=name) as refused:
        replace(CONFIG, environment={name: "canary"})
    assert "canary" not in str(refused.value)
    assert replace(CONFIG, secret_variables=(SecretVariable(name, "s3", "key"),)).secret_variables


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "AWS_SHARED_CREDENTIALS_FILE", "KEYBOARD"])
def test_other_variables_are_no_secrets(name: str) -> None:
    assert replace(CONFIG, environment={name: "x"}).environment


def test_a_reference_that_is_none_is_not_repeated() -> None:
    for make in (
        lambda: SecretVariable("AWS_SECRET_ACCESS_KEY", "CANARY/canary+", ""),
        lambda: SecretVolume("CANARY/canary+", "/secrets"),
        lambda: replace(CONFIG, environment={"PROXY": "http://me:canary@proxy"}),
    ):
        with pytest.raises(UsageError, match="expected") as refused:
            make()
        assert "canary" not in str(refused.value).lower()
