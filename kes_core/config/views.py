"""Views of configurations: the effective one with masked secrets, and the format as a JSON Schema. Internal."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kes_core.config.fields import descriptions, dotted, plain_credentials
from kes_core.config.model import Config
from kes_core.config.sections import STATIC_ENGINE, CheckedSettings, FileSettings
from kes_core.faults import kind_of

if TYPE_CHECKING:
    from kes_core.plugins import Plugins

__all__ = ["effective", "exposed_credentials", "json_schema"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_EMPTY: Final = {"type": "null"}
_NUMBERS: Final = frozenset({"number", "integer", "boolean"})
_REFERENCE: Final = {"type": "string", "pattern": r"^\s*\$\{[^}]*\}\s*$"}
"""`${NAME}`, a reference to an environment variable, which may replace any scalar."""


def effective(config: Config) -> dict[str, Any]:
    """Return the configuration as the server applies it, in the structure of the file and with masked secrets."""
    # In JSON mode, pydantic masks secrets, and our own types have the form of the file.
    shown = config.model_dump(mode="json", exclude_none=True, include=set(CheckedSettings.model_fields))
    shown["keystore"] = {config.keystore.backend.name: _dump(config.keystore.config)}
    shown["policy_engines"] = {choice.type.name: _dump(choice.config) for choice in config.policy_engines}
    shown["audit_sinks"] = {choice.type.name: _dump(choice.config) for choice in config.audit_sinks}
    shown["frontends"] = {choice.type.name: _dump(choice.config) for choice in config.frontends}
    return {name: value for name, value in shown.items() if value not in ("", {}, [])}


def exposed_credentials(config: Config) -> list[str]:
    """Return the fields of plugins' sections that hold a credential as plain text, which `effective` shows."""
    chosen: list[tuple[str, str, type[BaseModel]]] = [
        ("keystore", config.keystore.backend.name, config.keystore.backend.config),
        *(("policy_engines", choice.type.name, choice.type.config) for choice in config.policy_engines),
        *(("audit_sinks", choice.type.name, choice.type.config) for choice in config.audit_sinks),
        *(("frontends", choice.type.name, choice.type.config) for choice in config.frontends),
    ]
    return [dotted(path) for section, name, model in chosen for path in plain_credentials(model, (section, name))]


def _dump(settings: BaseModel) -> Any:
    try:
        return settings.model_dump(mode="json", exclude_none=True)
    except Exception as error:  # of a plugin's own serializer, or a type that pydantic can't show
        return f"can't be shown: {kind_of(error)}, which is a fault of its plugin"


def _has_schema(model: type[BaseModel]) -> bool:
    """Return whether pydantic can describe a model of a plugin: its fields may have any type."""
    try:
        with warnings.catch_warnings(action="ignore"):
            model.model_json_schema()
    except Exception:  # pydantic's, or of the type of a field
        return False
    return True


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file with the sections of `plugins`.

    The server may still refuse a file that this schema accepts: the schema has no rules between fields.
    """
    backends = {name: backend.config for name, backend in plugins.backends.items()}
    engines = {name: engine.config for name, engine in plugins.engines.items() if name != STATIC_ENGINE}
    sinks = {name: sink.config for name, sink in plugins.sinks.items()}
    frontends = {name: frontend.config for name, frontend in plugins.frontends.items()}
    foreign = dict.fromkeys([*backends.values(), *engines.values(), *sinks.values(), *frontends.values()])
    models: list[Any] = [FileSettings, *filter(_has_schema, foreign)]
    with warnings.catch_warnings(action="ignore"):  # of pydantic, about defaults that JSON can't show
        places, schema = models_json_schema(
            [(model, "validation") for model in models], ref_template="#/$defs/{model}", title="KES configuration"
        )
    definitions = schema["$defs"]
    _describe(definitions, models)
    place_of: dict[Any, Any] = {model: place for (model, _mode), place in places.items()}
    whole = definitions[str(place_of[FileSettings]["$ref"]).rpartition("/")[2]]
    whole["properties"]["keystore"] = _sections(backends, place_of) | {"minProperties": 1, "maxProperties": 1}
    whole["properties"]["policy_engines"] = _sections(engines, place_of)
    whole["properties"]["audit_sinks"] = _sections(sinks, place_of)
    whole["properties"]["frontends"] = _sections(frontends, place_of)
    definitions = {name: _as_text(definition) for name, definition in definitions.items()}
    return {"$schema": _DIALECT, "title": "KES configuration", "$ref": place_of[FileSettings]["$ref"]} | {
        "$defs": definitions
    }


def _describe(definitions: dict[str, Any], models: Iterable[Any]) -> None:
    """Add to each property the string that stands below its field in the source of the model."""
    waiting, seen = list(models), set[Any]()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        waiting += [
            found
            for field in model.model_fields.values()
            for found in _types_in(field.annotation)
            if isinstance(found, type) and issubclass(found, BaseModel)
        ]
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for name, text in descriptions(model).items():
            if name in properties:
                form = properties[name].get("description", "")  # of the field's type
                properties[name]["description"] = f"{text} {form}".strip()


def _types_in(annotation: Any) -> Iterator[Any]:
    """Yield a type and the types of its arguments."""
    yield annotation
    for argument in get_args(annotation):
        yield from _types_in(argument)


def _sections(models: Mapping[str, type[BaseModel]], places: Mapping[Any, Any]) -> dict[str, Any]:
    properties = {name: places.get(model, {}) for name, model in models.items()}  # {}: anything
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _as_text(schema: Any) -> Any:
    """Widen a schema to what the file may contain: there, each scalar is text, a reference, or empty."""
    if isinstance(schema, list):
        return [_as_text(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    literal = {"enum", "examples", "default"}
    widened = {key: value if key in literal else _as_text(value) for key, value in schema.items()}
    properties = widened.get("properties")
    if isinstance(properties, dict):
        widened["properties"] = {name: _optional(value) for name, value in properties.items()}
    for key in ("additionalProperties", "items"):
        if isinstance(widened.get(key), dict):
            widened[key] = _optional(widened[key])
    return widened


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Also allow an empty value, and a reference or any plain text for a scalar."""
    about: dict[str, Any] = {key: schema[key] for key in ("description", "default", "examples") if key in schema}
    bare = {key: value for key, value in schema.items() if key not in {*about, "title"}}
    if not bare:
        return schema
    choices: list[dict[str, Any]] = []
    for choice in bare.get("anyOf", [bare]):
        choices += [item for item in _choices(choice) if item not in choices]
    return {"anyOf": [*(choice for choice in choices if choice != _EMPTY), _EMPTY], **about}


def _choices(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of the values that may replace a value of `schema`."""
    if "enum" in schema or "pattern" in schema:
        return [schema, _REFERENCE]
    if schema.get("type") == "string":
        return [schema | {"type": ["string", "number", "boolean"]}]
    return [schema, _REFERENCE] if schema.get("type") in _NUMBERS else [schema]
