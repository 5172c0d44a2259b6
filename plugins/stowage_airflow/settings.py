"""Where data is, when to refresh it and how to train on it; read from the environment when DAG files are parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from packing.errors import UsageError

SWITCHED_ON, SWITCHED_OFF = ("true", "yes", "on", "1"), ("", "false", "no", "off", "0")


@dataclass(frozen=True)
class Settings:
    """Defaults of the DAGs' forms; each form field can still be changed when a run is triggered by hand."""

    source: str
    destination: str
    schedule: str | None
    parallel_tasks: int
    store_pool: str
    price_per_hour: float | None
    approve_above: float | None
    require_signature: bool
    notify: str
    deadline_minutes: float | None
    train_model: str
    train_model_dir: str
    train_vocab_size: int
    train_steps: int
    train_sequences_per_step: int
    train_learning_rate: float
    train_launcher: str
    train_image: str
    train_launch_options: str
    train_pool: str


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from `STOWAGE_*` variables."""

    def get(name: str, default: str) -> str:
        return environment.get(f"STOWAGE_{name}", default)

    def number(name: str) -> float | None:
        return float(text) if (text := get(name, "")) else None

    def switch(name: str) -> bool:
        given = get(name, "")
        if (text := given.strip().lower()) not in (*SWITCHED_ON, *SWITCHED_OFF):
            raise UsageError(f"STOWAGE_{name}: expected true or false, got {given!r}; leave it out for false")
        return text in SWITCHED_ON

    return Settings(
        source=get("SOURCE", ""),
        destination=get("DESTINATION", ""),
        schedule=get("SCHEDULE", "") or None,
        parallel_tasks=int(get("PARALLEL_TASKS", "4")),
        store_pool=get("STORE_POOL", "default_pool"),
        price_per_hour=number("PRICE_PER_HOUR"),
        approve_above=number("APPROVE_ABOVE"),
        require_signature=switch("REQUIRE_SIGNATURE"),
        notify=get("NOTIFY", ""),
        deadline_minutes=number("DEADLINE"),
        train_model=get("TRAIN_MODEL", "base"),
        train_model_dir=get("TRAIN_MODEL_DIR", ""),
        train_vocab_size=int(get("TRAIN_VOCAB_SIZE", "30522")),
        train_steps=int(get("TRAIN_STEPS", "1000")),
        train_sequences_per_step=int(get("TRAIN_SEQUENCES_PER_STEP", "256")),
        train_learning_rate=float(get("TRAIN_LEARNING_RATE", "4.25e-4")),
        train_launcher=get("TRAIN_LAUNCHER", "local"),
        train_image=get("TRAIN_IMAGE", ""),
        train_launch_options=get("TRAIN_LAUNCH_OPTIONS", ""),
        train_pool=get("TRAIN_POOL", "default_pool"),
    )
