"""The Compose file as data, with the values that a user's docker/.env would put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.docker.images import DOCKER

COMPOSE_FILE = DOCKER / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET_NAMES = re.findall(r"^([A-Z0-9_]+)=$", (DOCKER / "env.example").read_text(encoding="utf-8"), flags=re.MULTILINE)
FAKE_SECRETS = {name: f"fake-{name.lower().replace('_', '-')}" for name in SECRET_NAMES}

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?P<kind>:\?|:-)(?P<rest>[^}]*)\}|(?P<dollar>\$\$)")


def references(text: str) -> list[tuple[str, str]]:
    """Name and kind (`:?` must be there, `:-` has a default) of each variable of the user's."""
    return [(match["name"], match["kind"]) for match in _REFERENCE.finditer(text) if match["name"]]


def filled(value: Any, environment: Mapping[str, str]) -> Any:
    """`value` as Compose passes it on."""
    if isinstance(value, dict):
        return {key: filled(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, environment) for each in value]
    if not isinstance(value, str):
        return value

    def put_in(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        return environment[match["name"]] if match["kind"] == ":?" else environment.get(match["name"], match["rest"])

    return _REFERENCE.sub(put_in, value)


def service(name: str, environment: Mapping[str, str] = FAKE_SECRETS) -> dict[str, Any]:
    """A service as Compose starts it."""
    return dict(filled(SERVICES[name], environment))


def env_file(name: str) -> dict[str, str]:
    """The variables of a file that Compose reads with `env_file`."""
    lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
