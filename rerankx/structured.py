"""Documents with fields, as one text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rerankx.errors import MissingDependencyError


def as_yaml(document: Mapping[str, object], fields: Iterable[str] | None = None) -> str:
    """Return the document's fields as YAML, which rerankers read better than JSON: for `key=`.

        reranker.rerank(query, records, key=as_yaml)
        reranker.rerank(query, records, key=lambda record: as_yaml(record, ["title", "body"]))

    The order is kept, and matters: a text that is too long is cut at its end.

    Args:
        document: Its fields; values are plain ones: strings, numbers, dates, None, and lists and dicts of them.
        fields: Which, in which order; one that the document does not have is left out. None takes all, as they come.

    Raises:
        TypeError: The document is not a mapping, or a value is not plain.
        MissingDependencyError: PyYAML is not installed.

    Source: https://docs.cohere.com/docs/reranking-best-practices, 2026-11.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("as_yaml", ["yaml"], "pip install pyyaml") from error
    if not isinstance(document, Mapping):
        raise TypeError(f"as_yaml takes a mapping of fields, not {type(document).__name__}")
    if isinstance(fields, str):
        raise TypeError(f"fields is one string; pass a list, such as [{fields!r}]")
    chosen = dict(document) if fields is None else {name: document[name] for name in fields if name in document}
    if not chosen:
        return ""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True  # a value that comes twice is written twice

    for kind in (set, bytes):  # of which YAML would write its own form
        Plain.add_representer(kind, yaml.SafeDumper.represent_undefined)
    try:
        return yaml.dump(_plain(chosen), Dumper=Plain, sort_keys=False, allow_unicode=True, width=float("inf"))
    except yaml.representer.RepresenterError as error:
        plain = "strings, numbers, dates, None, lists and dicts"
        raise TypeError(f"as_yaml takes {plain}; a field holds {type(error.args[-1]).__name__}") from None


def _plain(value: object) -> object:
    """Return mappings of every kind as dicts."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
