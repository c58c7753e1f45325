"""Write the documents' generated tables, from the registry, the catalogue and what benchmarks/embedded_quality.py has measured.

--check only says whether they are current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from rerankx import registry
from rerankx.catalogue import CROSS_ENCODERS, EMBEDDED, FLASHRANK
from rerankx.catalogue.endpoints import ENDPOINTS
from rerankx.catalogue.prices import PRICES

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import embedded_quality  # noqa: E402

# What a backend must be given that asks somebody else; nobody is asked here.
_NEEDED: dict[str, dict[str, object]] = {
    "cohere": {"api_key": "none"},
    "listwise": {"model": "any", "base_url": "http://localhost"},
    "judge": {"model": "any", "base_url": "http://localhost"},
}


def backends() -> str:
    rows = [
        "| name | installed by | what it is | scale | pointwise | licence of the default weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in registry.BUILT_IN.items():
        if name == "http":
            names = ", ".join(f"`{preset}`" for preset in ("http", *registry.presets()))
            rows.append(f"| {names} | `rerankx[http]` | {entry.summary} | as it declares | most | the service's |")
            continue
        backend = registry.create(name, **_NEEDED.get(name, {}))
        scale = backend.scale.kind
        if scale == "similarity":
            scale += f" [{backend.scale.low:g}, {backend.scale.high:g}]"
        if name == "cross-encoder":
            scale, licence = "logit, or unknown", "its repository's"
        elif name == "retrieval":
            scale, licence = "the retriever's, or rank", "it has none"
        else:
            licence = "the service's" if name in _NEEDED else _licence(backend.model)
        install = f"`rerankx[{entry.extra}]`" if entry.extra else "the base install"
        pointwise = "yes" if backend.pointwise else "no"
        rows.append(f"| `{name}` | {install} | {entry.summary} | {scale} | {pointwise} | {licence} |")
    return "\n".join(rows)


def _licence(model: str) -> str:
    return next(
        cards[model].licence for cards in (CROSS_ENCODERS, FLASHRANK, {EMBEDDED.model: EMBEDDED}) if model in cards
    )


def models() -> str:
    rows = ["| model | MB | tokens | languages | licence | runs on |", "|---|---|---|---|---|---|"]
    for card in CROSS_ENCODERS.values():
        licence = card.licence if card.commercial_use else f"{card.licence}, non-commercial"
        engine = "ONNX" if card.onnx_file else "sentence-transformers"
        rows.append(
            f"| [{card.model}]({card.source}) | {card.megabytes} | {card.max_tokens} | {card.languages} | {licence} | {engine} |"
        )
    return "\n".join(rows)


def services() -> str:
    rows = ["| name | service | model, if none is given | scale | at once | key |", "|---|---|---|---|---|---|"]
    for name in registry.presets():
        asked = ENDPOINTS[name]
        model = (
            f"`{asked.default_model}`" if asked.default_model else "has to be given" if asked.needs_key else "as served"
        )
        key = ", ".join(f"`{variable}`" for variable in asked.key_variables)
        where = f"{key}, if it wants one" if key and not asked.needs_key else key or "none"
        address = f", `{asked.base_url}`" if asked.base_url.startswith("http://localhost") else ""
        what, at_once = f"[{asked.summary}]({asked.source}){address}", asked.max_documents or "all"
        rows.append(f"| `{name}` | {what} | {model} | {asked.scale} | {at_once} | {where} |")
    return "\n".join(rows)


def prices() -> str:
    rows = ["| model | price, US dollars | 1,000 queries over 50 passages | read |", "|---|---|---|---|"]
    for name, price in PRICES.items():
        if price.per_search_unit is not None:
            said, cost = f"{price.per_search_unit * 1000:g} per 1,000 search units", 1000 * price.per_search_unit
        else:
            said, cost = (
                f"{price.per_million_tokens:g} per million tokens",
                1000 * 50 * (220 + 20) / 1e6 * price.per_million_tokens,
            )
        rows.append(f"| `{name}` | {said} | {cost:.2f} | [{price.read}]({price.source.split(' ')[0]}) |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is not current")
    args = parser.parse_args()
    stale = []
    measured = json.loads(embedded_quality.RESULT.read_text(encoding="utf-8"))
    quality = {"gains": embedded_quality.gains(measured), "published": embedded_quality.published()}
    for file, tables in (
        ("README.md", {"backends": backends(), "services": services(), "quality": embedded_quality.summary(measured)}),
        ("docs/embedded-model.md", quality),
        ("docs/local-models.md", {"models": models()}),
        ("docs/services.md", {"prices": prices()}),
    ):
        old = new = (ROOT / file).read_text(encoding="utf-8")
        for name, table in tables.items():
            block = re.compile(rf"(<!-- begin {name}:.*?-->\n).*?(<!-- end {name} -->)", re.DOTALL)
            new, found = block.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", new)
            if found != 1:
                print(f"{file} has {found} places for the table {name!r}, not 1", file=sys.stderr)
                return 1
        if new != old:
            stale.append(file)
            if not args.check:
                (ROOT / file).write_text(new, encoding="utf-8")
    if args.check and stale:
        print(f"the tables of {' and '.join(stale)} are not current: python scripts/readme_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
