"""Manifests as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml


def as_yaml(manifests: Iterable[dict[str, Any]]) -> str:
    """One YAML document for each manifest, as `kubectl apply -f -` reads them."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Repeats what stands in several places, which PyYAML would write once and refer to."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted if any reader may take it for a number or a truth value: PyYAML does not think so of 1e-05, 0o17, y."""
    quoted = re.match(r"[-+.]*\d|[yYnN]$", text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_text)
