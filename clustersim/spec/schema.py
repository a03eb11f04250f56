"""JSON Schema of the files people write, for editors and for other tools.

The schemas say what the reader accepts: quantities are text with a unit, references are a name,
a path or a mapping, and a file that `extends` another may leave out what the other one gives. The
reader checks more than a schema can: see `checks`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from clustersim.spec.device import Device
from clustersim.spec.fleet import Fleet
from clustersim.spec.merge import REFERENCES
from clustersim.spec.model import Model
from clustersim.spec.scenario import Recompute, Scenario
from clustersim.spec.serving import ServingScenario
from clustersim.spec.serving_engine import ServingEngine
from clustersim.spec.software import Software
from clustersim.spec.topology import Topology

RECORDS: MappingProxyType[str, type[BaseModel]] = MappingProxyType(
    {
        "scenario": Scenario,
        "serving": ServingScenario,
        "topology": Topology,
        "device": Device,
        "model": Model,
        "software": Software,
        "engine": ServingEngine,
        "fleet": Fleet,
    }
)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS: dict[str, Any] = {
    "type": "object",
    "required": ["extends"],
    "properties": {"extends": {"type": "string", "description": "name or path to start from"}},
}


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file.

    Parameters
    ----------
    kind : str
        One of the keys of `RECORDS`.

    Returns
    -------
    dict
        A schema of draft 2020-12.
    """
    schema = RECORDS[kind].model_json_schema()
    definitions = schema.pop("$defs", {})
    bodies = {body["title"]: body for body in (schema, *definitions.values())}
    for there, record in RECORDS.items():
        body = bodies.get(record.__name__)
        references = REFERENCES.get("scenario" if there == "serving" else there, {})
        for path, named in references.items() if body else ():
            owner = body if len(path) == 1 else bodies["Node"]
            assert owner is not None
            if path[-1] in owner["properties"]:
                owner["properties"][path[-1]] = _reference(owner["properties"][path[-1]], named)
    if "Training" in bodies:
        words = bodies["Recompute"]["properties"]["kind"]["enum"]
        whole = {"$ref": f"#/$defs/{Recompute.__name__}"}
        bodies["Training"]["properties"]["recompute"] = {"anyOf": [{"enum": words}, whole]}
    return {
        "$schema": _DIALECT,
        "title": f"clustersim {kind}",
        "anyOf": [_EXTENDS, schema],
        "$defs": definitions,
    }


def _reference(body: dict[str, Any], kind: str) -> dict[str, Any]:
    name = {"type": "string", "description": f"name or path of a {kind}"}
    return {"anyOf": [name, _EXTENDS, body]}
