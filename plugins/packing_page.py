"""Airflow's plugin for the page "Packing"; the only file here that Airflow loads as a plugin."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/stowage"


class PackingPage(AirflowPlugin):
    """The page and its place in the navigation.

    Airflow shows the view in a frame at /plugin/packing. The address is relative, as the API server may serve all of
    Airflow below a path of its own.
    """

    name = "stowage_packing_page"
    external_views: ClassVar[list[dict[str, Any]]] = [
        {
            "name": "Packing",
            "href": f"{PREFIX.lstrip('/')}/",
            "url_route": "packing",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """Made when the API server asks for it; every other component of Airflow loads plugins too."""
        from stowage_airflow.page.app import create_app

        return [{"name": "Packing", "app": create_app(), "url_prefix": PREFIX}]
