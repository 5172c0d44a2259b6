"""The packed dataset as an Airflow asset: one for each destination, all under one alias."""

from __future__ import annotations

from airflow.sdk import Asset

PACKED_DATASETS = "stowage_packed_datasets"


def packed_dataset(destination: str) -> Asset:
    """The asset of the packed dataset below `destination`."""
    place = destination.rstrip("/")
    return Asset(name=f"packed dataset {place}", uri=place if "://" in place else f"file://{place}")
