"""Every JSON document that the command line prints is what its published schema says."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nestscope.plugin.samples import sample_names
from tests.schemas import SCHEMAS, hold, schema, validator

from .conftest import Cli

NAMES = sorted(path.name.removesuffix("-1.schema.json") for path in SCHEMAS.iterdir())
DOCS = Path(__file__).parents[3] / "docs"


def arguments(verb: str, sample: str) -> list[str]:
    source = f"sample:{sample}"
    return [verb, source, "0x0", "--lpid", "1"] if verb == "walk" else [verb, source]


@pytest.mark.parametrize("sample", sample_names())
@pytest.mark.parametrize("verb", ["state", "check", "walk"])
def test_what_a_verb_prints_is_as_its_schema_says(cli: Cli, verb: str, sample: str) -> None:
    document = json.loads(cli(*arguments(verb, sample), "--json").output)
    assert document["schema"] == f"nestscope.{verb}/1"
    hold(document)


@pytest.mark.parametrize("word", ["pte", "pde", "pate", "prte", "ptcr", "rmap"])
def test_a_decoded_word_is_as_its_schema_says(cli: Cli, word: str) -> None:
    document = json.loads(cli("decode", word, "0xc000000002d50387", "--json").output)
    assert document["schema"] == "nestscope.decode/1"
    hold(document)
    del document["fields"][0]["bits"]
    assert not validator("decode").is_valid(document)


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_itself_valid_and_names_its_file(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"nestscope.{name}/1"


def test_the_reference_lists_each_schema() -> None:
    page = (DOCS / "reference/json.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`nestscope.{name}/1`" not in page] == []
    assert [name for name in NAMES if f"`{name}-1.schema.json`" not in page] == []


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
    assert validator("state").is_valid(document)
    assert not validator("state").is_valid(spoilt)
