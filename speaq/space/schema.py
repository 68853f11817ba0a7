"""The JSON schema of a search space, for editors that complete and check YAML while it is written."""

from __future__ import annotations

from typing import Any

from speaq.config import describe
from speaq.config.extending import EXTENDS
from speaq.config.schema import DIALECT, extends_schema, key_schemas, tidied
from speaq.space.space import Space

KINDS = ("FloatRange", "IntRange", "Choice")
PARAMETER = {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"type": "null"}]}  # null: not the one of the file it extends


def space_schema() -> dict[str, Any]:
    """A search space by its keys and types; every dotted key is one of a config's, with its meaning."""
    schema = tidied(Space.model_json_schema())
    properties = schema["properties"]
    del properties["question"]  # is the comment at the head of the file
    meanings = {key: meaning for key, _, meaning in describe()}
    parameter = properties["parameters"].pop("additionalProperties")
    schema["$defs"]["Parameter"] = {"oneOf": parameter["oneOf"]}
    properties["parameters"] |= {
        "properties": {key: {**PARAMETER, "description": text} for key, text in meanings.items()},
        "additionalProperties": False,
    }
    properties["fixed"] |= {"properties": key_schemas(), "additionalProperties": False}
    for kind in KINDS:
        schema["$defs"][kind]["properties"]["when"]["propertyNames"] = {"enum": list(meanings)}
    properties[EXTENDS] = extends_schema("search space")
    either = [{"required": [name]} for name in (*schema.pop("required"), EXTENDS)]
    return {"$schema": DIALECT, "title": "A search space of SpeaQ", **schema, "anyOf": either}
