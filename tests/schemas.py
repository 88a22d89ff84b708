"""The published JSON schemas, by the name that a document gives itself."""

import json
from importlib.resources import files
from typing import Any

import jsonschema

SCHEMAS = files("nestscope") / "schemas"


def schema(name: str) -> Any:
    """Return the schema `nestscope.NAME/1`."""
    return json.loads((SCHEMAS / f"{name}-1.schema.json").read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return what holds documents to the schema `nestscope.NAME/1`."""
    return jsonschema.Draft202012Validator(schema(name))


def hold(document: Any) -> None:
    """Raise unless the document is as the schema that it names says."""
    name, _, version = document["schema"].removeprefix("nestscope.").partition("/")
    assert version == "1"
    validator(name).validate(document)
