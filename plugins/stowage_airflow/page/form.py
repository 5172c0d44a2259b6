"""The form that triggers a refresh: the DAG's own params, prefilled from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packing.errors import UsageError
from stowage_airflow.page.access import REFRESH_DAG

DRY_RUN = "dry_run"
_INPUTS = {"integer": "integer", "number": "number", "string": "text", "boolean": "flag"}
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


@dataclass(frozen=True)
class Field:
    """One param: `kind` is integer, number, text, flag or choice; `limits` are JSON Schema's; no value is ""."""

    name: str
    title: str
    description: str
    section: str
    kind: str
    value: str
    required: bool
    limits: Mapping[str, int | float]
    pattern: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """The fields in the DAG's order, and whether the DAG knows dry runs, and starts runs at all."""

    fields: tuple[Field, ...]
    dry_run: bool
    paused: bool

    @property
    def sections(self) -> Mapping[str, tuple[Field, ...]]:
        """The fields by section, each section where its first field stands."""
        names = dict.fromkeys(field.section for field in self.fields)
        return {name: tuple(field for field in self.fields if field.section == name) for name in names}


def read_form() -> Form:
    """The form of the DAG as Airflow has it now; raises UsageError if it has none."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel

    dag, model = SerializedDagModel.get_dag(REFRESH_DAG), DagModel.get_dagmodel(REFRESH_DAG)
    if dag is None or model is None:
        raise UsageError(f"{REFRESH_DAG}: Airflow has not loaded this DAG; look at its import errors")
    found = {name: dag.params.get_param(name) for name in dag.params}
    params = {name: (param.value, param.schema, param.description) for name, param in found.items()}
    return Form(fields_of(params), DRY_RUN in params, bool(model.is_paused))


def fields_of(params: Mapping[str, tuple[Any, Mapping[str, Any], str | None]]) -> tuple[Field, ...]:
    """A field for each param of a plain type, given as (default, JSON Schema, description).

    The buttons decide about a dry run; params of other types keep their defaults.
    """
    found = (_field(name, *param) for name, param in params.items() if name != DRY_RUN)
    return tuple(field for field in found if field is not None)


def prefill(form: Form, values: Mapping[str, str]) -> Form:
    """The form with these values in place of the defaults."""
    fields = (replace(field, value=values.get(field.name, field.value)) for field in form.fields)
    return replace(form, fields=tuple(fields))


def _field(name: str, value: Any, schema: Mapping[str, Any], description: str | None) -> Field | None:
    choices = tuple(choice for choice in schema.get("enum", ()) if isinstance(choice, str))
    types = schema.get("type", "string" if choices else ())
    types = [types] if isinstance(types, str) else list(types)
    plain = [kind for kind in types if kind != "null"]
    if len(plain) != 1 or plain[0] not in _INPUTS:
        return None
    kind = "choice" if choices else _INPUTS[plain[0]]
    return Field(
        name=name,
        title=schema.get("title") or name.replace("_", " ").capitalize(),
        description=schema.get("description_md") or description or schema.get("description") or "",
        section=schema.get("section") or "Options",
        kind=kind,
        value=_text(value),
        required="null" not in types and kind != "flag",
        limits={limit: schema[limit] for limit in _LIMITS if limit in schema},
        pattern=schema.get("pattern", ""),
        choices=choices,
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
