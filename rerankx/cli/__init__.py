"""The command line: `rerankx demo`, `rerank`, `advise`, `backends`, `models`, `download`, `verify`.

Exit status: 0 done; 1 a backend failed or is not installed; 2 wrong arguments or input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rerankx import __version__
from rerankx.cli import models
from rerankx.errors import RerankxError
from rerankx.ranking import hit_to_dict
from rerankx.registry import available
from rerankx.reranker import Reranker

T = TypeVar("T")


class _BadInput(Exception):
    """What was read is not what the arguments say."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors="replace")  # not every terminal has arrows
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = args.command
    try:
        command(args)
        if sys.stdout is not None:  # it may have been closed
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (_BadInput, OSError, ValueError, TypeError) as error:
        return _fail(error, 2)
    except (RerankxError, ImportError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _reconfigure(stream: object, *, encoding: str | None = None, errors: str | None = None) -> None:
    if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook put in its place
        stream.reconfigure(encoding=encoding, errors=errors)


def _fail(error: Exception, status: int) -> int:
    print(f"rerankx: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rerankx", description="Rerank texts by their relevance to a query.")
    parser.add_argument("--version", action="version", version=f"rerankx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="rerank a small help centre and show what moved",
        description="Answer 40 questions from a help centre of 100 confusable passages: keyword search finds the "
        "candidates, the backend reranks them. The collection was written for this and is an illustration, no benchmark.",
    )
    demo.add_argument("question", nargs="?", help="a question of your own instead of the 40")
    demo.add_argument("--top-n", type=int, default=5, help="how many passages to show (default 5)")
    demo.add_argument("--candidates", type=int, default=20, help="how many keyword search hands on (default 20)")
    demo.add_argument("--all", action="store_true", help="show every question, not only three")
    _add_backend(demo)
    demo.set_defaults(command=_demo)

    rerank = commands.add_parser(
        "rerank",
        help="read texts, write them in order",
        description="Read one text per line, or with --jsonl one JSON value per line, and write JSON lines, best first: "
        '{"rank", "index", "score", "raw_score", "document", "details"}. "index" counts the '
        "texts from 0; with --jsonl blank lines are none.",
    )
    rerank.add_argument("query")
    rerank.add_argument("--file", help="where the texts are (default: standard input)")
    rerank.add_argument(
        "--jsonl", action="store_true", help="each line is a JSON string, or an object with --field in it"
    )
    rerank.add_argument("--field", default="text", help='which field of an object holds its text (default "text")')
    rerank.add_argument("--top-n", type=int, help="keep that many (default: all)")
    rerank.add_argument("--min-score", type=float, help="keep those with at least this score, in [0, 1]")
    _add_backend(rerank)
    rerank.set_defaults(command=_rerank)

    advise = commands.add_parser(
        "advise",
        help="say whether reranking helps on your data, with what, and how deep",
        description="Say whether to rerank: first what even a perfect order could gain, then every backend, depth and mixture "
        "with the first stage, chosen on one part of the queries and measured on the other. Prints a sentence with its reason "
        "and a table; writes a report, all figures, and, where reranking is advised, a spec that both adapters load.",
    )
    advise.add_argument(
        "data",
        nargs="?",
        help="a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/), candidates as JSON lines, or LlamaIndex's QA dataset"
        " (default: the small help centre that ships, an illustration)",
    )
    advise.add_argument(
        "--candidates", help="a folder's first stage: JSON lines or a TREC run (default: what lies in it, else BM25)"
    )
    advise.add_argument("--split", default="test", help="which judgements of a folder (default test)")
    advise.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help='what to try, "backend" or "backend:model"; repeatable (default: embedded, and minilm if it is on this machine)',
    )
    advise.add_argument(
        "--budget-ms", type=float, metavar="MS", help="most that a query may take, at its 95th percentile"
    )
    advise.add_argument("--budget-usd", type=float, metavar="USD", help="most that 1,000 queries may cost")
    advise.add_argument("--offline", action="store_true", help="ask no service and fetch no model")
    advise.add_argument("--measure", default="nDCG@10", help="such as nDCG@10, RR@10, R@5 (default nDCG@10)")
    advise.add_argument(
        "--depth",
        action="append",
        type=int,
        metavar="N",
        help="candidates to rerank; repeatable (default 10, 20, 50, 100, 200)",
    )
    advise.add_argument(
        "--margin", type=float, default=0.01, help="the largest difference that does not matter (default 0.01)"
    )
    advise.add_argument(
        "--out",
        default="rerankx-advice",
        metavar="FOLDER",
        help="where to write, and to go on from (default rerankx-advice)",
    )
    advise.set_defaults(command=_advise)

    backends = commands.add_parser("backends", help="list what is installed, what is missing, and what installs it")
    backends.set_defaults(command=_backends)

    listing = commands.add_parser("models", help="list known models: size, licence, languages, what runs them")
    listing.set_defaults(command=_models)
    for name, what, command in (
        (
            "download",
            "fetch a model's newest files and prepare them, for an image or a host without network",
            models.download,
        ),
        ("verify", "compare a model's logits with those that others have published", models.verify),
    ):
        local = commands.add_parser(name, help=what)
        local.add_argument(
            "model", help="a backend's name (minilm, flashrank:MODEL), or a cross-encoder's repository or folder"
        )
        local.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
        _add_options(local)
        local.set_defaults(command=_print, what=command)
    return parser


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", default="embedded", help='"backend" or "backend:model" (default embedded)')
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the backend, such as max_tokens=128; numbers, true, false and null as in JSON; repeatable",
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for option in args.option:
        name, equals, value = option.partition("=")
        if not equals:
            raise _BadInput("--option takes NAME=VALUE; what was given has no =")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _reranker(args: argparse.Namespace) -> Reranker:
    return Reranker(args.backend, **_options(args))


def _rerank(args: argparse.Namespace) -> None:
    # JSON lines are UTF-8, whatever the terminal is; some tools put a byte order mark before them.
    _reconfigure(sys.stdin, encoding="utf-8-sig")
    _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace")
    reranker = _reranker(args)
    if args.file is None:
        documents = _read(sys.stdin, args)
    else:
        with open(args.file, encoding="utf-8-sig") as lines:
            documents = _read(lines, args)
    ranking = reranker.rerank(
        args.query, documents, top_n=args.top_n, min_score=args.min_score, key=lambda document: document[0]
    )
    for hit in ranking:
        line = json.dumps({**hit_to_dict(hit), "document": hit.document[1]}, ensure_ascii=False)
        # JSON escapes the control characters below U+0020 only; those above steer a terminal, too.
        print(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", line))
    if ranking.truncated:
        print(f"rerankx: {ranking.truncated} of {ranking.total} texts were cut to the model's length", file=sys.stderr)
    if ranking.degraded:
        print(f"rerankx: degraded: {ranking.degraded}", file=sys.stderr)


def _read(lines: Iterable[str], args: argparse.Namespace) -> list[tuple[str, object]]:
    """Return each line's text and what it stands for."""
    texts = [line.rstrip("\r\n") for line in lines]
    if not args.jsonl:
        return [(text, text) for text in texts]
    return [_parsed(text, number, args.field) for number, text in enumerate(texts, 1) if text.strip()]


def _parsed(line: str, number: int, field: str) -> tuple[str, object]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadInput(f"line {number} is not JSON: {error}") from error
    text = document.get(field) if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise _BadInput(f"line {number} is neither a string nor an object with a string in {field!r}")
    return text, document


def _advise(args: argparse.Namespace) -> None:
    from rerankx.cli import advising

    if os.path.isfile(args.out):
        raise _BadInput(f"--out is a file, {args.out}; name a folder")
    try:
        advice = advising.advice(args, advising.Bar())
    except KeyboardInterrupt:
        print(f"\nrerankx: stopped; the same command goes on from {args.out}", file=sys.stderr)
        raise
    print(advice)
    print("\nWritten:", *advice.save(args.out))


def _backends(args: argparse.Namespace) -> None:
    for backend in available():
        state = f"missing {', '.join(backend.missing)}: {backend.command}" if backend.missing else "installed"
        print(f"{backend.name:<16} {state:<10} {backend.summary}")


def _models(args: argparse.Namespace) -> None:
    print(models.table())


def _print(args: argparse.Namespace) -> None:
    revision = {} if args.revision is None else {"revision": args.revision}
    print(args.what(args.model, {**_options(args), **revision}))


def _demo(args: argparse.Namespace) -> None:
    from rerankx import demo

    for name in ("top_n", "candidates"):
        if getattr(args, name) < 1:
            raise _BadInput(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    reranker = _reranker(args)
    if args.question is not None:
        candidates = demo.KeywordSearch(demo.passages())(args.question, args.candidates)
        print(demo.show_ranking(reranker.rerank(args.question, candidates, key=lambda p: p.text), top_n=args.top_n))
        return
    reranker.rerank("warm up", ["warm up"])  # the first call loads the model: not a question's fault
    answered = list(_with_progress(demo.run(reranker, candidates=args.candidates), total=len(demo.questions())))
    print(demo.show(answered, top_n=args.top_n, every=args.all))


def _with_progress(items: Iterable[T], *, total: int) -> Iterator[T]:
    """Yield the items; on a terminal, draw a bar meanwhile."""
    for done, item in enumerate(items, 1):
        yield item
        if sys.stderr.isatty():
            bar = "#" * (30 * done // total)
            print(f"\r[{bar:<30}] {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
