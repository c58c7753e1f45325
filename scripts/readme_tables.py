"""Write the documents' generated tables, from the registry and the catalogue; --check only says whether they are current."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from rerankx import registry
from rerankx.catalogue import CROSS_ENCODERS, EMBEDDED, FLASHRANK

ROOT = Path(__file__).parents[1]


def backends() -> str:
    rows = [
        "| name | installed by | what it is | scale | pointwise | licence of the default weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in registry.BUILT_IN.items():
        backend = registry.create(name)
        scale = backend.scale.kind
        if scale == "similarity":
            scale += f" [{backend.scale.low:g}, {backend.scale.high:g}]"
        licence = _licence(backend.model)
        if name == "cross-encoder":
            scale, licence = "logit, or unknown", "its repository's"
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


def quality() -> str:
    rows = ["| collection, first stage | queries | first stage | embedded | |", "|---|---|---|---|---|"]
    for figure in EMBEDDED.figures:
        name, note = f"{figure.collection}, {figure.first_stage}", "tuned" if figure.tuned else ""
        after = f"**{figure.after:.3f}** ({figure.after - figure.before:+.3f})"
        rows.append(f"| {name} | {figure.queries} | {figure.before:.3f} | {after} | {note} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is not current")
    args = parser.parse_args()
    stale = []
    for file, tables in (
        ("README.md", {"backends": backends(), "quality": quality()}),
        ("docs/local-models.md", {"models": models()}),
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
