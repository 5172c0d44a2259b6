"""What can be set of Airflow and of the providers that are installed, from their own lists, without importing them."""

from __future__ import annotations

import runpy
from importlib.metadata import distribution, distributions
from pathlib import Path

import yaml

OPEN_SECTIONS = ("celery_broker_transport_options", "kubernetes_environment_variables")
"""Sections whose options are handed on to a library."""


def sections() -> dict[str, frozenset[str]]:
    """Names of options by section."""
    core = Path(str(distribution("apache-airflow-core").locate_file("airflow/config_templates/config.yml")))
    found = {name: set(section["options"]) for name, section in yaml.safe_load(core.read_text()).items()}
    for provider in distributions():
        for file in provider.files or ():
            if file.name == "get_provider_info.py":
                info = runpy.run_path(str(provider.locate_file(file)))["get_provider_info"]()
                for name, section in info.get("config", {}).items():
                    found.setdefault(name, set()).update(section["options"])
    return {name: frozenset(options) for name, options in found.items()}


SECTIONS = sections()


def is_option(section: str, option: str) -> bool:
    return section in OPEN_SECTIONS or option in SECTIONS.get(section, ())


def is_variable(name: str) -> bool:
    """Whether an environment variable named AIRFLOW__SECTION__OPTION sets something."""
    _, section, option = name.split("__", 2)
    return is_option(section.lower(), option.lower())
