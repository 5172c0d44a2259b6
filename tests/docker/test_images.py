from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docker.images import DOCKER, DOCKERFILES, IMAGES, REPOSITORY, Stage, pins
from training.launchers.config import CACHE, LaunchConfig
from training.launchers.kubernetes import GAUDI, GPU, Device, kubernetes_gaudi, kubernetes_gpu

HADOLINT = Path(sys.executable).with_name("hadolint")
TRAINING = {"gpu": (GPU, kubernetes_gpu), "gaudi": (GAUDI, kubernetes_gaudi)}


def hadolint(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "--no-color", *files], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    assert [dockerfile.stem for dockerfile in DOCKERFILES] == ["airflow", "gaudi", "gpu"]
    done = hadolint(*DOCKERFILES)
    assert (done.returncode, done.stdout) == (0, "")
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python\nRUN pip install numpy\n")
    assert {"DL3006", "DL3013"} <= set(re.findall(r"DL\d+", hadolint(careless).stdout))


def test_bases_are_pinned_to_the_versions_that_are_tested() -> None:
    bases = {name: stage.base for name, stage in IMAGES.items()}
    lock_python = re.findall(r"--python-version (\S+) pyproject", (REPOSITORY / "Makefile").read_text())[0]
    tensorflow = pins(REPOSITORY / "requirements-tf215.lock")["tensorflow-cpu"]
    assert bases["worker"] == "airflow"
    assert re.fullmatch(rf"python:{re.escape(lock_python)}\.\d+-slim-bookworm", bases["airflow"])
    assert bases["gpu"] == bases["airflow"]
    assert "/1.14.0/ubuntu22.04/" in bases["gaudi"]
    assert f"tensorflow-installer-tf-cpu-{tensorflow}:" in bases["gaudi"]


def test_the_gaudi_image_is_not_built_on_another_python_or_tensorflow() -> None:
    checks = " ".join(IMAGES["gaudi"].all("RUN"))
    assert "sys.version_info[:2] == (3, 10)" in checks
    assert f"version('tensorflow-cpu') == '{pins(REPOSITORY / 'requirements-tf215.lock')['tensorflow-cpu']}'" in checks


def test_the_gaudi_image_leaves_habana_s_modules_on_the_path() -> None:
    """Habana's image has them in PYTHONPATH, which an ENV of ours replaces."""
    assert IMAGES["gaudi"].environment["PYTHONPATH"].split(":") == ["/opt/stowage", "/usr/lib/habanalabs"]


@pytest.mark.parametrize("stage", IMAGES.values(), ids=IMAGES)
def test_images_run_as_the_launchers_user(stage: Stage) -> None:
    user = LaunchConfig(image="any", resources=GPU.resources).user_id
    assert stage.all("USER")[-1] == f"{user}:0"
    assert f"useradd --uid {user} --gid 0 " in " ".join(stage.all("RUN"))


@pytest.mark.parametrize(("name", "launcher"), TRAINING.items(), ids=TRAINING)
def test_training_images_are_what_the_launchers_expect(name: str, launcher: tuple[Device, Any]) -> None:
    device, manifests = launcher
    config = LaunchConfig(image=device.image, resources=device.resources)
    (container,) = manifests(config, [])[-1]["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert given.items() <= IMAGES[name].environment.items()
    assert f"install -d -o {config.user_id} -g 0 -m 775 {CACHE}" in IMAGES[name].all("RUN")[-1]
    version = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None
    assert device.image == f"stowage-{name}:{version[1]}"
    assert f"-t {device.image} ." in (DOCKER / f"{name}.Dockerfile").read_text()


def reaches_the_builder(path: str) -> bool:
    """Whether `.dockerignore` leaves `path`: the last pattern that fits it, or a folder above it, decides."""
    left = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        above = [path, *map(str, Path(path).parents)]
        if line and not line.startswith("#") and any(fnmatch.fnmatch(each, pattern) for each in above if each != "."):
            left = line.startswith("!")
    return left


def test_what_is_copied_is_there_and_nothing_else_reaches_the_builder() -> None:
    copied = {path for stage in IMAGES.values() for path in stage.copied}
    assert len(copied) > 8
    for path in copied:
        assert (REPOSITORY / path).exists(), path
        assert reaches_the_builder(path), path
    assert reaches_the_builder("packing/adapters/s3.py")
    for path in (
        ".git/config",
        ".venv/bin/python",
        ".demo/airflow",
        "docker/.env",
        "packing/__pycache__/a.pyc",
        "tests/x",
    ):
        assert not reaches_the_builder(path), path


@pytest.mark.parametrize("name", ["airflow", "gpu", "gaudi"])
def test_the_commands_that_images_run_by_themselves_work(name: str) -> None:
    command = IMAGES[name].all("CMD")[-1]
    assert re.fullmatch(r'\["python", "-m", "(packing|training)", "--help"\]', command)
    module = command.split('"')[5]
    entrypoint = [str(DOCKER / "entrypoint.sh")] if IMAGES[name].all("ENTRYPOINT") else []
    done = subprocess.run(
        [*entrypoint, sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert f"python -m {module}" in done.stdout


def health(name: str, modules: Path, **answers: str) -> int:
    """The status of an image's health check with the modules of that folder in place of the library's."""
    command = [sys.executable, *IMAGES[name].health_check[1:]]
    environment = {**os.environ, "PYTHONPATH": str(modules), **answers}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def test_the_gpu_image_is_well_while_the_driver_has_a_device(tmp_path: Path) -> None:
    fake = "import os\nclass CDLL:\n    def __init__(self, name): assert name == 'libcuda.so.1'\n"
    (tmp_path / "ctypes.py").write_text(fake + "    def cuInit(self, flags): return int(os.environ['CUDA_STATUS'])\n")
    no_device = 100
    assert [health("gpu", tmp_path, CUDA_STATUS=str(status)) for status in (0, no_device)] == [0, 1]


def test_the_gaudi_image_is_well_while_a_card_is_there(tmp_path: Path) -> None:
    (tmp_path / "glob.py").write_text(
        "import os, fnmatch\ndef glob(pattern): return fnmatch.filter([os.environ['DEVICE']], pattern)\n"
    )
    devices = ("/dev/hl0", "/dev/accel/accel7", "/dev/null")
    assert [health("gaudi", tmp_path, DEVICE=device) for device in devices] == [0, 0, 1]
