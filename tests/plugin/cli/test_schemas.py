"""Every JSON document that the command line prints is what its published schema says."""

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from nestscope.plugin.samples import sample_names

from .conftest import Cli

SCHEMAS = files("nestscope") / "schemas"


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}-1.schema.json").read_text())


def arguments(verb: str, sample: str) -> list[str]:
    source = f"sample:{sample}"
    return [verb, source, "0x0", "--lpid", "1"] if verb == "walk" else [verb, source]


@pytest.mark.parametrize("sample", sample_names())
@pytest.mark.parametrize("verb", ["state", "check", "walk"])
def test_what_a_verb_prints_is_as_its_schema_says(cli: Cli, verb: str, sample: str) -> None:
    document = json.loads(cli(*arguments(verb, sample), "--json").output)
    jsonschema.Draft202012Validator(schema(verb)).validate(document)


@pytest.mark.parametrize("verb", ["state", "check", "walk"])
def test_each_schema_is_itself_valid(verb: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(verb))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document["vms"][0]["memslots"][0]["rmap"][0].update(form="ring"),
        lambda document: document["vms"][0]["memslots"][0]["rmap"][0]["entries"][0].pop("n_gpa"),
        lambda document: document["vms"][0]["host_leaves"][0].update(pte=5),
        lambda document: document["vms"][0]["nested"][0].update(l1_lpid=4096),
        lambda document: document.update(schema="nestscope.state/2"),
        lambda document: document.pop("problems"),
    ],
    ids=["form", "entry", "pte is a number", "13 bits", "version", "no problems"],
)
def test_the_schema_notices_what_is_not_a_state(cli: Cli, spoil: Any) -> None:
    document = json.loads(cli("state", "sample:6.12-64k", "--json").output)
    spoilt = copy.deepcopy(document)
    spoil(spoilt)
    validator = jsonschema.Draft202012Validator(schema("state"))
    assert validator.is_valid(document)
    assert not validator.is_valid(spoilt)
