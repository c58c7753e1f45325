"""Prism, a mock server that checks requests by a service's own OpenAPI document and answers with what is written there."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_stage import serving

from rerankx import Ranking

SPECS = Path(os.environ.get("RERANKX_SPECS", Path(__file__).parents[3] / "shared" / "specs"))
PROGRAM = shutil.which(os.environ.get("RERANKX_PRISM", "prism"))
NEAR = "/near"
"""Before a path: replies made up by a schema that is narrow enough for some of them to be about the documents asked."""


def spec(name: str) -> Path:
    """Return where that document is; a module that needs it is skipped where it, or Prism, is not."""
    path = SPECS / f"{name}.openapi.json"
    why_not = None
    if PROGRAM is None:
        why_not = "no Prism: npm install @stoplight/prism-cli; RERANKX_PRISM names the program where PATH does not"
    elif not path.is_file():
        why_not = f"no {path.name} in {SPECS}; RERANKX_SPECS names another folder"
    if why_not:
        pytest.skip(why_not, allow_module_level=True)
    return path


def strict(request: dict, **more: dict) -> None:
    """Make the schema of a request refuse fields that it does not name, besides `more`: the document itself lets them pass."""
    request["properties"].update(more)
    request["additionalProperties"] = False


def near(document: dict, path: str, results: dict, *, wrapped: bool) -> None:
    """Serve `path` also below `NEAR`, where the reply is a list of at most 2 `results`; an object that holds it, if `wrapped`."""
    copied = json.loads(json.dumps(document["paths"][path]))
    results = {"type": "array", "minItems": 0, "maxItems": 2, "items": {**results, "additionalProperties": False}}
    body = {"type": "object", "properties": {"results": results}, "required": ["results"]} if wrapped else results
    copied["post"]["operationId"] += "-near"
    copied["post"]["responses"]["200"]["content"] = {"application/json": {"schema": body}}
    document["paths"][NEAR + path] = copied


def result(score: str) -> dict:
    """Return the schema of a result about one of 4 documents, or nearly so, with a score in [0, 1], or nearly so."""
    return {
        "type": "object",
        "properties": {
            "index": {"type": "integer", "minimum": 0, "maximum": 4},
            score: {"type": "number", "minimum": -0.02, "maximum": 1.02},
        },
        "required": ["index", score],
    }


@contextmanager
def prism(document: dict, folder: Path):
    """Yield a `Served` that answers as `document` says."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(document), "utf-8")

    def command(port):
        return [PROGRAM, "mock", "--errors", "--host", "127.0.0.1", "--port", str(port), str(file)]

    with serving(command, folder / "prism.log") as served:
        yield served


def check_outcome(ranking: Ranking | None, results: list[dict], score: str) -> None:
    """Assert that the ranking of 4 documents is what the reply says, or None, an error, if that is nonsense."""
    indices, scores = [r["index"] for r in results], [r[score] for r in results]
    sense = (
        len(set(indices)) == len(indices) and all(i < 4 for i in indices) and all(-1e-4 <= x <= 1.0001 for x in scores)
    )
    if ranking is None:
        assert not sense or not results, results  # nobody says what a list of nothing is
        return
    assert sense, results
    scored = [(hit.index, hit.raw_score) for hit in ranking if hit.raw_score is not None]
    assert scored == sorted(zip(indices, scores, strict=True), key=lambda pair: -pair[1])
    assert sorted(hit.index for hit in ranking) == [0, 1, 2, 3]
    assert ranking.degraded == "incomplete"
