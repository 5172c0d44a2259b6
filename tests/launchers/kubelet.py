"""What Kubernetes does with a pod's template: checks it, and puts variables into its texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

VERSIONS = (utils.all_versions()[0], utils.all_versions()[-1])
"""The oldest and the newest that `kubernetes-validate` knows."""
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def check_schemas(manifest: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` unless both versions accept the manifest, and know all its fields.

    What `kubernetes_validate.validate` does with `strict`, reading each schema once.
    """
    group, _, api = str(manifest["apiVersion"]).rpartition("/")
    for version in VERSIONS:
        name = "-".join(filter(None, [manifest["kind"].lower(), group, api]))
        _validator(version, name).validate(manifest)


@cache
def _validator(version: str, name: str) -> Any:
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    schema, definitions = (utils.schema_contents(f"{folder}/{x}.json", version) for x in (name, "_definitions"))
    registry: Any = Registry()
    for contents in (schema, definitions):
        registry = Resource.from_contents(contents) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


def container(job: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return dict(only)


def started(job: Mapping[str, Any], index: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of pod `index`; a secret's value is `SECRET:KEY`."""
    environment: dict[str, str] = {}
    for variable in container(job)["env"]:
        if "value" in variable:
            environment[variable["name"]] = _expanded(variable["value"], environment)
        elif reference := variable["valueFrom"].get("secretKeyRef"):
            environment[variable["name"]] = f"{reference['name']}:{reference['key']}"
        else:
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": INDEX}}
            environment[variable["name"]] = str(index)
    return [_expanded(argument, environment) for argument in container(job)["command"]], environment


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` is a variable that stands before, if there is one, and `$$` is `$`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)
