"""The JSON schema of a config file, for editors that complete and check YAML while it is written."""

from __future__ import annotations

from typing import Any

from speaq.config.config import Config, describe
from speaq.config.extending import EXTENDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """A config file by its keys, types, ranges and meanings. What depends on several keys is judged when it is read."""
    schema = tidied(Config.model_json_schema())
    schema["properties"][EXTENDS] = extends_schema("config")
    schema["$defs"]["MatchingConfig"]["properties"]["groups"]["anyOf"].append({"type": "object"})
    return {"$schema": DIALECT, "title": "A config of SpeaQ", **schema}


def extends_schema(kind: str) -> dict[str, Any]:
    """Of the key that names another file of its kind."""
    meaning = f"another {kind}, relative to this file: what it says holds where this one says nothing"
    return {"type": "string", "description": meaning}


def key_schemas() -> dict[str, dict[str, Any]]:
    """Every dotted key of a config with the schema of its value, all that it refers to written out."""
    schema = config_schema()
    found = {}
    for key, _, _ in describe():
        *sections, leaf = key.split(".")
        place = schema
        for section in sections:
            place = schema["$defs"][place["properties"][section]["$ref"].rpartition("/")[2]]
        found[key] = place["properties"][leaf]
    return found


def tidied(content: Any) -> Any:
    """A schema of pydantic's without the titles that it makes of names, and without defaults of whole sections."""
    if isinstance(content, list):
        return [tidied(part) for part in content]
    if not isinstance(content, dict):
        return content
    left_out = {"title"} if isinstance(content.get("title"), str) else set()
    if "$ref" in content:
        left_out.add("default")
    return {key: tidied(value) for key, value in content.items() if key not in left_out}
