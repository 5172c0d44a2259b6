"""Dockerfiles as data: stages with their base, environment and instructions."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))


@dataclass(frozen=True)
class Stage:
    """`base` is an image, or the name of a stage above, whose instructions then come first."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, keyword: str) -> list[str]:
        """The arguments of every instruction of that keyword, in order."""
        return [arguments for name, arguments in self.instructions if name == keyword]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for arguments in self.all("ENV") for pair in shlex.split(arguments))

    @property
    def health_check(self) -> list[str]:
        """The command of the last HEALTHCHECK."""
        return list(json.loads(self.all("HEALTHCHECK")[-1].partition("CMD")[2]))

    @property
    def copied(self) -> list[str]:
        """Paths in the repository that are copied."""
        words = [shlex.split(arguments) for arguments in self.all("COPY")]
        return [path for line in words for path in [word for word in line if not word.startswith("--")][:-1]]


def stages(dockerfile: Path) -> dict[str, Stage]:
    """By name; a file's last stage is also there under the file's own name."""
    found: dict[str, Stage] = {}
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for block in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        head, *lines = [line for line in block.splitlines() if line.strip()]
        base, _, name = head.partition(" AS ")
        own = tuple((line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines)
        name = name or dockerfile.stem
        found[name] = Stage(name, base, (*(found[base].instructions if base in found else ()), *own))
    return found


IMAGES = {name: stage for dockerfile in DOCKERFILES for name, stage in stages(dockerfile).items()}


def pins(lock: Path) -> dict[str, str]:
    """Versions by package."""
    return dict(re.findall(r"^([-a-z0-9.]+)==(\S+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))
