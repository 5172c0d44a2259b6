"""The packed dataset as an Airflow asset: one for each destination, all under one alias."""

from __future__ import annotations

from airflow.sdk import Asset

PACKED_DATASETS = "stowage_packed_datasets"


def packed_dataset(destination: str) -> Asset:
    """The asset of the packed dataset below `destination`."""
    place = destination.rstrip("/")
    return Asset(name=f"packed dataset {place}", uri=place if "://" in place else f"file://{place}")


def last_told(asset: Asset) -> str:
    """The recipe of the newest event that the asset has had, as Airflow keeps them; "" if there is none."""
    from airflow.sdk.execution_time.context import InletEventsAccessor

    newest = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(ascending=False).limit(1)
    return str(next(((event.extra or {}).get("recipe_id", "") for event in newest), ""))
