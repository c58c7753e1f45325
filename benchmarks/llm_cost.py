"""What a language model as a reranker costs: calls, tokens and dollars per query, by strategy and number of candidates.

    python benchmarks/llm_cost.py [DATA] [--queries 10] [--candidates 20 50 100] [--model gpt-6-luna]
    python benchmarks/llm_cost.py [DATA] --base-url http://localhost:8000/v1 --model qwen3

It measures cost, not quality. Without --base-url a server on loopback answers, from a script: any order, any grade. What counts
is what it is really asked over HTTP: it counts the requests, and the tokens of prompts and replies with a tokenizer. That is the
one inside rerankx, all-MiniLM-L6-v2's WordPiece; on these prompts it finds 1 to 3 % more tokens than cl100k_base, in a listwise
reply a quarter to a third fewer. Which passages a sliding window shows twice depends on the replies, so another model reads 1 or
2 % more or less. Not counted is what only a real service adds: a few tokens of its chat template per call, the schema of the
reply where that is billed, and thinking, which may be more than all the rest. With --base-url the service's own figures are
printed, as billed; the key is read from RERANKX_LLM_API_KEY, or OPENAI_API_KEY for OpenAI's own, and is not printed.

DATA is a folder in BEIR layout with candidates.BM25.jsonl; by default trec-dl19 in what RERANKX_DATA names, or in ../shared/data
beside the repository. Without it the demo's passages are ranked, and the output says so.

Dollars are those of rerankx.catalogue.chat_prices for --model, or of --price-in and --price-out. The price says nothing of what
the model can do: first-token needs log-probabilities, which not every model tells.

Calls are checked against the formula, w = 20 and s = 10: 1 + ceil((n - w) / s) for windows that slide over n > w candidates and
1 for fewer, that times 1 + shuffles, 1 for "all", n for a judge. Calls, tokens and dollars in `usage` are checked against what
the server counted. Where something differs the exit status is 1. A real model that has to be asked again, that refuses part of a
request, or whose context does not hold all candidates makes the calls differ from the formula.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from quality import read_beir, read_candidates

from rerankx import Reranker, RerankxError, Usage, demo
from rerankx.catalogue.chat_prices import CHAT_PRICES
from rerankx.catalogue.prices import Price

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RERANKX_DATA", ROOT.parent / "shared" / "data"))
MODEL = "gpt-6-luna"
TOP_N, WINDOW, STEP = 10, 20, 10
COUNTED_BY = "all-MiniLM-L6-v2's WordPiece, the tokenizer inside rerankx"


class Strategy(NamedTuple):
    """One way to ask."""

    name: str
    backend: str
    options: Mapping[str, object]

    def calls(self, n: int) -> int:
        """Return how many calls n candidates take, by the formula."""
        if self.backend == "judge":
            return n
        windows = 1 if self.options.get("window") == "all" else 1 + math.ceil(max(n - WINDOW, 0) / STEP)
        return windows * (1 + int(str(self.options.get("shuffles", 0))))


STRATEGIES = (
    Strategy("sliding", "listwise", {}),
    Strategy("sliding, 2 shuffles", "listwise", {"shuffles": 2}),
    Strategy("first-token", "listwise", {"strategy": "first-token"}),
    Strategy("all in one call", "listwise", {"window": "all"}),
    Strategy("judge, log-probabilities", "judge", {}),
    Strategy("judge, by text", "judge", {"lacks": ["logprobs"]}),
)


class Row(NamedTuple):
    """What one strategy took for all queries at one number of candidates."""

    n: int
    strategy: Strategy
    usage: Usage
    wrong: list[str]
    """What is not as it should be."""

    @property
    def where(self) -> str:
        """Return which row it is."""
        return f"{self.n} candidates, {self.strategy.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, nargs="?", default=DATA / "trec-dl19", help="in BEIR layout, with candidates"
    )
    parser.add_argument("--queries", type=int, default=10, help="the first so many")
    parser.add_argument("--candidates", type=int, nargs="+", default=[20, 50, 100], metavar="N")
    parser.add_argument("--model", help=f"whose price; with --base-url, who is asked (default: {MODEL})")
    parser.add_argument("--price-in", type=float, help="US dollars per 10^6 tokens read")
    parser.add_argument("--price-out", type=float, help="US dollars per 10^6 tokens written")
    parser.add_argument("--base-url", help="of an OpenAI-compatible service, to ask that")
    args = parser.parse_args()
    if args.base_url and not args.model:
        parser.error("--base-url needs --model, as the service names it")
    if (args.price_in is None) != (args.price_out is None):
        parser.error("--price-in and --price-out go together")
    if args.queries < 1 or min(args.candidates) < 2:
        parser.error("at least 1 query and 2 candidates")
    try:
        price = price_of(args)
        asked, source = questions(args.data, args.queries, max(args.candidates))
    except ValueError as error:
        parser.error(str(error))

    print(heading(args, asked, source, price), flush=True)
    wrong = []
    for row in measure(args, asked, price):
        print(line(row, len(asked)), flush=True)
        wrong += row.wrong
    for what in wrong:
        print(what, file=sys.stderr)
    if not wrong:
        print("\nThe calls are those of the formula.")
    return 1 if wrong else 0


def price_of(args: argparse.Namespace) -> Price | None:
    """Return what tokens cost; None where a service is asked whose price nobody knows.

    Raises:
        ValueError: No such model, or several.
    """
    if args.price_in is not None:
        return Price(per_million_tokens=args.price_in, per_million_output_tokens=args.price_out, source="as given")
    if args.base_url:
        return CHAT_PRICES.get(f"{urlsplit(args.base_url).hostname}:{args.model}")
    model = args.model or MODEL
    found = [key for key in CHAT_PRICES if model in (key, key.split(":", 1)[1])]
    if not found:
        known = ", ".join(sorted({key.split(":", 1)[1] for key in CHAT_PRICES}))
        raise ValueError(f"no price of {model!r}: pass --price-in and --price-out, or one of {known}")
    if len(found) > 1:
        raise ValueError(f"{model!r} has several prices: say whose, {' or '.join(found)}")
    return CHAT_PRICES[found[0]]


def questions(folder: Path, queries: int, most: int) -> tuple[list[tuple[str, list[str]]], str]:
    """Return queries with their candidates, best first, and where they are from.

    Raises:
        ValueError: No query has so many candidates.
    """
    if folder.is_dir():
        corpus, texts, _ = read_beir(folder)
        found = read_candidates(folder / "candidates.BM25.jsonl")
        asked = [(texts[qid], [corpus[docid] for docid in docids[:most]]) for qid, docids in found.items()]
        source = f"{folder.name}, first by BM25"
    else:
        search = demo.KeywordSearch(demo.passages())
        asked = [(q.text, [p.text for p in search(q.text, most)]) for q in demo.questions()[:queries]]
        source = f"the demo's passages: there is no {folder}"
    asked = [(query, passages) for query, passages in asked if len(passages) == most][:queries]
    if not asked:
        raise ValueError(f"no query has {most} candidates in {source}")
    return asked, source


def measure(args: argparse.Namespace, asked: Sequence[tuple[str, list[str]]], price: Price | None) -> Iterator[Row]:
    """Yield what each strategy takes."""
    for n in args.candidates:
        for strategy in STRATEGIES:
            if args.base_url:
                yield rerank_all(strategy, n, asked, price, model=args.model, base_url=args.base_url)
                continue
            with scripted() as server:
                row = rerank_all(strategy, n, asked, price, model="scripted", base_url=server.address, api_key="none")
            told, counted = figures(row.usage), figures(server.counted(price))
            if told != counted:
                row.wrong.append(f"{row.where}: usage tells {told}, the server counted {counted}")
            yield row


def rerank_all(
    strategy: Strategy, n: int, asked: Sequence[tuple[str, list[str]]], price: Price | None, **service: str
) -> Row:
    """Return what the strategy takes for all queries."""
    row = Row(n, strategy, Usage(), [])
    options: dict[str, Any] = {**service, **strategy.options}
    if price is not None:
        names = ("per_million_tokens", "per_million_output_tokens")
        options["price"] = {name: getattr(price, name) or 0.0 for name in names}
    reranker = Reranker(strategy.backend, **options)
    try:
        for query, passages in asked:
            ranking = reranker.rerank(query, passages[:n], top_n=TOP_N)
            row = row._replace(usage=row.usage + ranking.usage)
            if ranking.degraded or len(ranking) != min(TOP_N, n):
                row.wrong.append(f"{row.where}: {len(ranking)} came back, degraded={ranking.degraded}")
    except RerankxError as error:
        row.wrong.append(f"{row.where}: {error}")
    finally:
        reranker.backend.close()  # type: ignore[attr-defined]
    expected = strategy.calls(n) * len(asked)
    if row.usage.calls != expected:
        failed = reranker.backend.replies.failed  # type: ignore[attr-defined]
        row.wrong.append(
            f"{row.where}: {row.usage.calls} calls, {expected} by the formula; {failed} replies were no answer"
        )
    return row


def figures(usage: Usage) -> str:
    dollars = "no" if usage.cost_usd is None else f"{usage.cost_usd:.9f}"
    return f"{usage.calls} calls, {usage.input_tokens} tokens in, {usage.output_tokens} out, {dollars} US dollars"


def heading(args: argparse.Namespace, asked: Sequence[tuple[str, list[str]]], source: str, price: Price | None) -> str:
    texts = [text for _, passages in asked for text in passages]
    if args.base_url:
        who = f"Tokens as billed by the service, which was asked for {args.model}."
    else:
        who = (
            "A scripted server answered: this is cost, not quality. Calls and tokens are those it was asked, without a service's"
            f" own chat template, schema and thinking. Tokens by {COUNTED_BY}."
        )
    dollars = "The price is not known."
    if price is not None:
        read, written = price.per_million_tokens or 0, price.per_million_output_tokens or 0
        origin = f"{price.source}, {price.read}" if price.read else price.source
        dollars = f"US dollars per 10^6 tokens of {args.model or MODEL}: {read:g} in, {written:g} out ({origin})."
    length = sum(map(tokens_in, texts)) / len(texts)
    return (
        f"Queries: {len(asked)}, {source}; {length:.0f} tokens per passage. {who}\n{dollars}\n\n"
        f"Per query, for the best {TOP_N}:\n\n"
        "| candidates | strategy | calls | tokens in | tokens out | US dollars |\n|---|---|---|---|---|---|"
    )


def line(row: Row, queries: int) -> str:
    used, about = row.usage, "~" if row.usage.estimated else ""
    read, written = (used.input_tokens or 0) / queries, (used.output_tokens or 0) / queries
    dollars = "–" if used.cost_usd is None else f"{about}{used.cost_usd / queries:.6f}"
    calls = f"{used.calls / queries:g}"
    return f"| {row.n} | {row.strategy.name} | {calls} | {about}{read:,.0f} | {about}{written:,.0f} | {dollars} |"


# The server.


class Scripted(ThreadingHTTPServer):
    """Answers what rerankx asks, without a thought, and counts."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.seen: list[tuple[int, int]] = []
        """Of each call, tokens read and written."""

    @property
    def address(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def counted(self, price: Price | None) -> Usage:
        """Return what it was asked."""
        read, written = (sum(tokens) for tokens in zip((0, 0), *self.seen, strict=True))
        cost = None
        if price is not None:
            cost = (read * (price.per_million_tokens or 0) + written * (price.per_million_output_tokens or 0)) / 1e6
        return Usage(calls=len(self.seen), input_tokens=read, output_tokens=written, cost_usd=cost)


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    server: Scripted
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer who asks for the model's context."""
        self._send(404, {"error": {"message": "nothing is told of the model"}})

    def do_POST(self) -> None:
        """Answer a question, and count it."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = "\n".join(message["content"] for message in body["messages"])
        one_token = bool(body.get("logprobs"))
        text = "" if one_token else reply_to(prompt)
        usage = {"prompt_tokens": tokens_in(prompt), "completion_tokens": 1 if one_token else tokens_in(text)}
        message = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
        if one_token:
            likely = first_token(prompt)
            first: dict[str, Any] = {"token": next(iter(likely)), "logprob": max(likely.values())}
            first["top_logprobs"] = [{"token": token, "logprob": value} for token, value in likely.items()]
            message["content"], choice["logprobs"] = first["token"], {"content": [first]}
        self.server.seen.append((usage["prompt_tokens"], usage["completion_tokens"]))
        self._send(200, {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage})

    def _send(self, status: int, reply: object) -> None:
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Yield a server that runs."""
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply_to(prompt: str) -> str:
    """Return an answer in words: odd passages before even ones, or the grade 2."""
    n = prompt.count('\n<passage id="')
    if not n:
        return "2"
    return json.dumps({"ranking": [*range(1, n + 1, 2), *range(2, n + 1, 2)]})


def first_token(prompt: str) -> dict[str, float]:
    """Return twenty tokens with their log-probabilities, likeliest first: letters, or the grades and more."""
    shown = re.findall(r'\n<passage id="(\w)"', prompt)
    tokens = [*shown[::2], *shown[1::2]] or ["2", "1", "3", "0", "4"]
    tokens += [f" other{i}" for i in range(20 - len(tokens))]
    return {token: -0.7 * (i + 1) for i, token in enumerate(tokens)}


def tokens_in(text: str) -> int:
    """Return how many tokens a text has, by the tokenizer inside rerankx."""
    return len(tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    from rerankx.backends.embedded.lexical import DATA as EMBEDDED

    found = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


if __name__ == "__main__":
    sys.exit(main())
