"""JSON Schema: quantities are text, references may be words."""

from __future__ import annotations

import json

import pytest

from clustersim.spec.schema import RECORDS, json_schema


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_a_schema_is_json_and_every_reference_in_it_resolves(kind):
    schema = json_schema(kind)
    text = json.dumps(schema)
    for piece in text.split('"$ref": "#/$defs/')[1:]:
        assert piece.partition('"')[0] in schema["$defs"]
    assert schema["title"] == f"clustersim {kind}"


def test_a_quantity_is_text_with_a_unit():
    node = json_schema("topology")["$defs"]["Nics"]["properties"]["bandwidth"]
    assert node["type"] == "string"
    assert "Gb/s" in node["pattern"]


def test_references_may_be_words_and_files_may_extend():
    schema = json_schema("scenario")
    model = schema["anyOf"][1]["properties"]["model"]
    device = schema["$defs"]["Node"]["properties"]["device"]
    for reference in (model, device):
        assert {option.get("type") for option in reference["anyOf"]} >= {"string", "object"}
    assert schema["anyOf"][0]["required"] == ["extends"]
    recompute = schema["$defs"]["Training"]["properties"]["recompute"]["anyOf"]
    assert recompute[0]["enum"] == ["none", "selective", "full"]
