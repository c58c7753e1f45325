"""`rerankx models`, `rerankx download`, `rerankx verify`."""

from __future__ import annotations

from typing import Any, Protocol, cast

from rerankx.catalogue import CROSS_ENCODERS, EMBEDDED, FLASHRANK, CrossEncoderCard, Golden, card_of
from rerankx.errors import BackendError
from rerankx.interface import Backend
from rerankx.registry import BUILT_IN, available, create


class _Local(Protocol):
    """What a backend that runs a model from files can do beside scoring."""

    def download(self) -> None: ...
    def describe(self) -> dict[str, object]: ...


def table() -> str:
    """Return the catalogue as a table, a model per line."""
    aliases = {entry.model: f" ({name})" for name, entry in BUILT_IN.items() if entry.model}
    rows: list[tuple[str, ...]] = [("model", "MB", "tokens", "licence", "languages", "runs on", "DL19")]
    rows.append(
        (f"{EMBEDDED.model} (embedded)", str(EMBEDDED.megabytes), str(EMBEDDED.max_tokens), EMBEDDED.licence, EMBEDDED.languages,
         "onnx", "-")
    )  # fmt: skip
    for card in CROSS_ENCODERS.values():
        rows.append(_row(card.model + aliases.get(card.model, ""), card))
    for card in FLASHRANK.values():
        rows.append(_row(f"flashrank:{card.model}", card))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            "MB: of the file that is downloaded and run. DL19: nDCG@10 as its provider prints it, over MS MARCO's candidates;",
            "over other candidates other figures. Sources: rerankx.catalogue. Any repository or folder works: cross-encoder:NAME",
        ]
    )


def _row(name: str, card: CrossEncoderCard) -> tuple[str, ...]:
    licence = card.licence if card.commercial_use else f"{card.licence} (non-commercial)"
    engine = "onnx" if card.onnx_file is not None else "sentence-transformers"
    figures = [figure.value for figure in card.published if figure.collection == "TREC DL19"]
    dl19 = f"{figures[0]:.3f}" if figures else "-"
    return name, str(card.megabytes or "?"), str(card.max_tokens), licence, card.languages, engine, dl19


def backend_of(name: str, options: dict[str, Any]) -> Backend:
    """Return the backend for a registered name, with or without a model, or for a cross-encoder's repository or folder."""
    known = {line.name for line in available()}
    return create(name if name.partition(":")[0] in known else f"cross-encoder:{name}", **options)


def download(name: str, options: dict[str, Any]) -> str:
    """Fetch the newest files of a model, make what is made of them, and return what is there now.

    Raises:
        ValueError: The backend has nothing to download.
        ModelNotFoundError: The files are not to be had.
    """
    backend = backend_of(name, options)
    if not hasattr(backend, "download"):
        raise ValueError(f"backend {backend.name!r} has nothing to download")
    local = cast("_Local", backend)
    local.download()
    return "\n".join(f"{fact:<16} {value}" for fact, value in local.describe().items())


def verify(name: str, options: dict[str, Any]) -> str:
    """Return how the model's logits compare with those that others have printed.

    Raises:
        ValueError: Nobody has printed any for this model.
        BackendError: They differ by more than the tolerance.
    """
    backend = backend_of(name, options)
    golden = _golden(backend)
    if "precision" not in options:  # 16 bits, a GPU's default, are coarser than the tolerance
        backend = backend_of(name, {**options, "precision": "fp32"})
    values = backend.score(golden.query, golden.texts).values
    lines = [f"{backend.model}: {golden.query!r}", f"{'expected':>10} {'here':>10} {'differs':>10}"]
    worst = 0.0
    for text, expected, value in zip(golden.texts, golden.logits, values, strict=True):
        if value is None:
            raise BackendError(f"{text!r} was not scored")
        worst = max(worst, abs(value - expected))
        lines.append(f"{expected:10.5f} {value:10.5f} {abs(value - expected):10.5f}  {text}")
    lines.append(f"largest difference {worst:.2g}, tolerance {golden.tolerance:g}; expected as in {golden.source}")
    if not worst <= golden.tolerance:
        raise BackendError("\n".join([*lines, "the logits differ from the published ones"]))
    return "\n".join(lines)


def _golden(backend: Backend) -> Golden:
    card = card_of(backend.model)
    if card is None or card.golden is None:
        known = ", ".join(card.model for card in CROSS_ENCODERS.values() if card.golden is not None)
        raise ValueError(f"no published logits of {backend.model!r} are known; there are some of {known}")
    return card.golden
