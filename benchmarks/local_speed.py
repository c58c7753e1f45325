"""How fast cross-encoders rerank on this machine's CPU: rerankx and others, same weights, same texts, same process.

    python benchmarks/local_speed.py [--rounds 9] [--json FILE] [--markdown]

Which models, and who runs them how: local_models.py. They are not the published checkpoints; speed does not depend on weights.

Speed: after one warm-up call each, every round calls all contestants once, in shuffled order, from strings (or the host's
documents, made beforehand) to their order. Wall and CPU time of all rounds are kept; printed are median and quartiles. "times as
long" is the median of the ratios round by round, theirs to ours. Before the clock starts, scores are compared with those of
sentence-transformers, each in its own convention; whose differ by more than 1e-4 is marked.

Texts: "short", a query of TREC DL 2019 and its first MS MARCO passages by BM25 (then those of the next queries); "mixed", such
passages joined and cut to pairs of 20 to 300 tokens, log-normal with the median 118 and the 95th percentile 300; "equal", 16
pairs of 42 and of 86 tokens, where there is least to gain. The collection is DATA/trec-dl19 (DATA: what RERANKX_DATA names, by
default ../shared/data beside the repository); without it the demo's passages, numbered, and the output says so.

Also: cold start (a new process until it has ranked 2 texts, everything made and on disk), peak memory of a new process that ranks
as many mixed texts as the largest of --sizes, and utilisation: the operations of the full graph on real tokens, per second, over
the best rate of a bare matrix product in fp32 on all cores.

Nothing else should run meanwhile. torch's threads wait for each other without sleeping: where one of them has lost its core to
another process, a small call takes thirty times as long, and that is no figure of anyone's. How much of a core others took is
measured beside every table, where the system tells; above 0.1 the figures are marked as disturbed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from local_models import CONTESTANTS, SHAPES, Contestant, Ranked, Run, make, quiet
from overhead import ENVIRONMENT
from quality import read_beir, read_candidates

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RERANKX_DATA", ROOT.parent / "shared" / "data"))
WORKER = Path(__file__).with_name("local_models.py")
TOLERANCE = 1e-4
MIXES, PARTS = ("short", "mixed", "equal"), ("cold", "memory", "speed", "utilisation")
QUERY = 3  # of TREC DL 2019, from 0: its pairs have 85 tokens in the mean, those of all queries 95
DISTURBED = 0.1  # of a core, taken by others
PAUSE_S = 0.1  # threads of the one before may spin a while, waiting for more
PAIRS = (("st", "plain"), ("plain", "ours"), ("ours", "int8"), ("flashrank-q", "int8"))


class Workload(NamedTuple):
    """A query and texts."""

    name: str
    query: str
    texts: list[str]
    lengths: list[int]
    """Tokens of each pair, special ones included."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of collections; trec-dl19 is read")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--large-rounds", type=int, default=3, help="rounds of more than 200 texts a call")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 50, 100, 1000], metavar="N", help="texts a call")
    parser.add_argument("--mix", nargs="+", choices=MIXES, default=MIXES)
    peers = [key for key in CONTESTANTS if key != "ours"]
    parser.add_argument("--against", nargs="+", choices=peers, default=peers)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, help="keep the models there; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write everything there, all rounds")
    parser.add_argument("--markdown", action="store_true", help="end with tables for the README")
    parser.add_argument(
        "--show", nargs="+", type=Path, metavar="FILE", help="measure nothing: tables of earlier --json"
    )
    args = parser.parse_args()

    if args.show:
        print(readme([json.loads(path.read_text("utf-8")) for path in args.show]))
        return
    quiet()
    sys.stdout.reconfigure(line_buffering=True)  # it takes long, and its lines are waited for
    with tempfile.TemporaryDirectory() as scratch:
        results = measure_all(args, (args.work or Path(scratch)).resolve())
    if args.markdown:
        print("\n" + readme([results]))


def measure_all(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    from tokenizers import Tokenizer

    query, passages, source = collection(args.data)
    results: dict[str, Any] = {"machine": machine(), "texts": source, "query": query, "weights": {}}
    for name, fact in results["machine"].items():
        print(f"{name}: {fact}")
    print(f"texts: {source}\nquery: {query!r}")

    def keep(part: str, lines: Iterable[dict[str, Any]]) -> None:
        for line in lines:
            results.setdefault(part, []).append({"model": model, **line})
            if args.json:
                args.json.write_text(json.dumps(results, indent=1), "utf-8")

    for model in args.models:
        folder = work / model
        weights = results["weights"][model] = make(model, folder)
        print(f"\n# {model}: {SHAPES[model]}\n\nNot the published checkpoint; its weights are {weights}.")
        entered = {key: CONTESTANTS[key] for key in ("ours", *args.against) if prepared(key, folder)}
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if "cold" in args.only:
            keep(
                "cold", cold(entered, folder, Workload("2 texts", query, passages[:2], []), rounds=min(args.rounds, 5))
            )
        if "memory" in args.only:
            keep("memory", memory(entered, folder, mixed(query, passages, max(args.sizes), tokenizer)))
        if "speed" in args.only:
            wanted = workloads(args.mix, args.sizes, query, passages, tokenizer)
            keep("speed", speed(entered, folder, wanted, rounds=args.rounds, large_rounds=args.large_rounds))
        if "utilisation" in args.only:
            wanted = workloads(("short", "mixed"), [50], query, passages, tokenizer)
            keep("utilisation", utilisation(folder, wanted, rounds=args.rounds))
    results["load at the end"] = load()
    print(f"\nload at the end: {results['load at the end']}")
    return results


# The texts.


def collection(data: Path) -> tuple[str, list[str], str]:
    """Return a query, passages without repetition, its own first, and where they are from."""
    folder = data / "trec-dl19"
    if not folder.is_dir():
        from rerankx import demo

        passages = [f"{passage.text} ({i})" for i in range(10) for passage in demo.passages()]
        return demo.questions()[QUERY].text, passages, f"the demo's, numbered: there is no {folder}"
    corpus, queries, _ = read_beir(folder)
    candidates = list(read_candidates(folder / "candidates.BM25.jsonl").items())
    ordered = candidates[QUERY:] + candidates[:QUERY]
    passages = dict.fromkeys(corpus[docid] for _, docids in ordered for docid in docids if docid in corpus)
    return queries[ordered[0][0]], list(passages), "MS MARCO passages, TREC DL 2019, first by BM25"


def workloads(
    mixes: Sequence[str], sizes: Sequence[int], query: str, passages: list[str], tokenizer: Any
) -> Iterable[Workload]:
    if "short" in mixes:
        for n in sizes:
            texts = passages[:n]
            yield Workload(f"{n} short", query, texts, pair_lengths(query, texts, tokenizer))
    if "mixed" in mixes:
        for n in sizes:
            yield mixed(query, passages, n, tokenizer)
    if "equal" in mixes:
        for tokens in (42, 86):
            yield equal(query, passages, 16, tokens, tokenizer)


def mixed(query: str, passages: list[str], n: int, tokenizer: Any) -> Workload:
    room = room_in(query, tokenizer)
    texts = [cut(joined(passages, i), tokens - room, tokenizer) for i, tokens in enumerate(mixed_lengths(n))]
    return Workload(f"{n} mixed", query, texts, pair_lengths(query, texts, tokenizer))


def mixed_lengths(n: int) -> list[int]:
    """Return n pair lengths, always the same: evenly over a log-normal, in no order."""
    normal = statistics.NormalDist(math.log(118), math.log(300 / 118) / statistics.NormalDist().inv_cdf(0.95))
    lengths = [min(300, max(20, round(math.exp(normal.inv_cdf((i + 0.5) / n))))) for i in range(n)]
    random.Random(0).shuffle(lengths)
    return lengths


def equal(query: str, passages: list[str], n: int, tokens: int, tokenizer: Any) -> Workload:
    room = room_in(query, tokenizer)
    texts = (cut(joined(passages, i), tokens - room, tokenizer) for i in range(len(passages)))
    # One cut in the middle of a character that is several tokens may have another number of them.
    exact = (text for text in texts if pair_lengths(query, [text], tokenizer) == [tokens])
    return Workload(f"{n} of {tokens} tokens", query, list(islice(exact, n)), [tokens] * n)


def joined(passages: list[str], i: int) -> str:
    """Return the passages from number i on, well over 300 tokens of them."""
    return " ".join(passages[(i + more) % len(passages)] for more in range(12))


def cut(text: str, tokens: int, tokenizer: Any) -> str:
    """Return its first tokens, at least one."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text[: offsets[: max(tokens, 1)][-1][1]]


def room_in(query: str, tokenizer: Any) -> int:
    """Return the tokens of a pair that are not its text's."""
    return len(tokenizer.encode(query, "").ids)


def pair_lengths(query: str, texts: list[str], tokenizer: Any) -> list[int]:
    return [len(tokenizer.encode(query, text).ids) for text in texts]


# Speed.


def speed(
    entered: dict[str, Contestant], folder: Path, wanted: Iterable[Workload], *, rounds: int, large_rounds: int
) -> Iterable[dict[str, Any]]:
    runs = {key: run for key, contestant in entered.items() if (run := loaded(key, contestant, folder)) is not None}
    right = next(key for key in ("st", "st-best", "plain", "ours") if key in runs)
    print(f"\nlast layer of ours: {runs['ours'].last_layer}\nscores are compared with those of: {entered[right].label}")
    gc.collect()
    gc.freeze()  # else every collection goes through all that was imported
    for workload in wanted:
        tokens, median = sum(workload.lengths), statistics.median(workload.lengths)
        print(f"\n## {folder.name}, {workload.name}: {tokens:,} tokens, median pair {median:.0f}\n")
        fitting = {key: run for key, run in runs.items() if fits(entered[key], folder, workload)}
        first = {key: run(workload.query, entered[key].documents(workload.texts)) for key, run in fitting.items()}
        scores = {key: compared(entered[key], ranked, first[right]) for key, ranked in first.items()}
        if not scores["ours"]["equal"]:
            raise SystemExit(f"our scores are not those of {entered[right].label}: {scores['ours']}")
        others = Others()
        measured = alternate(entered, fitting, workload, rounds if len(workload.texts) <= 200 else large_rounds)
        for key, figures in measured.items():
            figures["scores"] = scores[key]
            if hasattr(runs[key], "batch_size"):
                figures["batch_size"] = runs[key].batch_size
        line = {"workload": workload.name, "pairs": workload.lengths, "others": others.cores(), "contestants": measured}
        print_speed(line)
        yield line
    gc.unfreeze()


class Others:
    """What other processes have taken of the cores since this was made."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Return how many cores they kept busy in the mean; None where the system does not tell."""
        now = self._now()
        if self._start is None or now is None:
            return None
        busy, own, wall = (after - before for after, before in zip(now, self._start, strict=True))
        return max(0.0, (busy - own) / wall)

    def _now(self) -> tuple[float, float, float] | None:
        """Return seconds of all processes, of this one, and on the clock."""
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        busy = sum(fields) - fields[3] - fields[4]  # idle, and idle that waits for a disk
        return busy / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()


def alternate(
    entered: dict[str, Contestant], runs: dict[str, Run], workload: Workload, rounds: int
) -> dict[str, dict[str, Any]]:
    """Return seconds of wall and CPU time, round by round."""
    measured: dict[str, dict[str, Any]] = {key: {"wall_s": [], "cpu_s": []} for key in runs}
    order, shuffled = list(runs), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for key in order:
            documents = entered[key].documents(workload.texts)
            gc.collect()
            time.sleep(PAUSE_S)
            wall, cpu = time.perf_counter(), time.process_time()
            runs[key](workload.query, documents)
            measured[key]["cpu_s"].append(time.process_time() - cpu)
            measured[key]["wall_s"].append(time.perf_counter() - wall)
    return measured


def prepared(key: str, folder: Path) -> bool:
    """Return whether a contestant is installed and its files could be made; say so if not."""
    contestant = CONTESTANTS[key]
    try:
        version(contestant.package)
        if contestant.prepare is not None:
            contestant.prepare(folder)
    except PackageNotFoundError:
        print(f"left out: {contestant.label}, since {contestant.package} is not installed")
        return False
    except Exception as error:
        print(f"left out: {contestant.label}: {type(error).__name__}: {error}")
        return False
    return True


def loaded(key: str, contestant: Contestant, folder: Path) -> Run | None:
    try:
        return contestant.load(folder)
    except Exception as error:
        if key == "ours":
            raise
        print(f"left out: {contestant.label}: {type(error).__name__}: {error}")
        return None


def fits(contestant: Contestant, folder: Path, workload: Workload) -> bool:
    """Return whether there is memory for all texts in one batch, for those who make one; say so if not."""
    if not contestant.one_batch:
        return True
    shape, n, longest = SHAPES[folder.name], len(workload.lengths), max(workload.lengths)
    # Measured with FlashRank 0.2.10: 2 to 6 times the activations of one layer.
    needed = 4 * 4 * n * longest * (shape.feed_forward + shape.heads * longest) / 2**30
    if needed < available_gigabytes():
        return True
    print(
        f"left out: {contestant.label}, {workload.name}: one batch of {n} x {longest} tokens takes about {needed:.0f} GB"
    )
    return False


def available_gigabytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8.0  # a guess
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))


# Scores.


def compared(contestant: Contestant, ranked: Ranked, right: Ranked) -> dict[str, Any]:
    """Return how far scores are from the right ones, as the contestant gives them, and whether that is equal to 1e-4."""
    expected = np.array([score for _, score in sorted(right)])
    if sorted(i for i, _ in ranked) != list(range(len(expected))):
        return {"equal": False, "why": f"{len(ranked)} of {len(expected)} texts came back"}
    if contestant.gives == "order":
        steps = np.diff(expected[[i for i, _ in ranked]], prepend=np.inf)
        return {"equal": bool(steps.max() <= TOLERANCE), "order_only": True, "max_abs": max(0.0, float(steps.max()))}
    if contestant.gives == "sigmoid":
        expected = 1 / (1 + np.exp(-expected))
    scores = np.array([score for _, score in sorted(ranked)])
    largest = float(np.abs(scores - expected).max())
    told = {"equal": largest <= TOLERANCE, "max_abs": largest}
    if not contestant.exact:
        top = min(10, len(expected))
        best, best_expected = (set(np.argsort(-some, kind="stable")[:top].tolist()) for some in (scores, expected))
        told |= {"spearman": spearman(scores, expected), "top_10": len(best & best_expected) / top}
        told["spread"] = float(expected.std())
    return told


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of their ranks; ties have none to speak of."""
    ranks = [np.argsort(np.argsort(some, kind="stable")) for some in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


# New processes.


def cold(entered: dict[str, Contestant], folder: Path, workload: Workload, *, rounds: int) -> Iterable[dict[str, Any]]:
    print(
        f"\n## {folder.name}: new process to ranking of 2 texts\n\n| contestant | seconds, median (quartiles) |\n|---|---|"
    )
    alone([sys.executable, "-c", "print(0)"], workload)
    bare = [alone([sys.executable, "-c", "print(0)"], workload)[0] for _ in range(rounds)]
    print(f"| Python itself | {with_quartiles(bare, '.2f')} |")
    yield {"contestant": "python", "wall_s": bare}
    for key, contestant in without_search(entered).items():
        command = [sys.executable, str(WORKER), key, str(folder)]
        alone(command, workload)  # what can be made once or read from disk is
        seconds = [alone(command, workload)[0] for _ in range(rounds)]
        print(f"| {contestant.label} | {with_quartiles(seconds, '.2f')} |")
        yield {"contestant": key, "wall_s": seconds}


def memory(entered: dict[str, Contestant], folder: Path, workload: Workload) -> Iterable[dict[str, Any]]:
    title = f"peak memory of a new process that ranks {len(workload.texts)} mixed texts"
    print(f"\n## {folder.name}: {title}\n\n| contestant | MB |\n|---|---|")
    for key, contestant in without_search(entered).items():
        if fits(contestant, folder, workload):
            _, megabytes = alone([sys.executable, str(WORKER), key, str(folder)], workload)
            print(f"| {contestant.label} | {megabytes:.0f} |")
            yield {"contestant": key, "texts": len(workload.texts), "megabytes": megabytes}


def without_search(entered: dict[str, Contestant]) -> dict[str, Contestant]:
    """Return the contestants, without sentence-transformers for a second time."""
    return {key: contestant for key, contestant in entered.items() if key != "st-best"}


def alone(command: list[str], workload: Workload) -> tuple[float, float]:
    """Return the seconds until a new process has printed a number, and the number."""
    pairs = json.dumps({"query": workload.query, "texts": workload.texts})
    with tempfile.TemporaryFile("w+") as texts, tempfile.TemporaryFile("w+") as said:
        texts.write(pairs)
        texts.seek(0)
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdin=texts, stdout=subprocess.PIPE, stderr=said, text=True, env=ENVIRONMENT
        ) as process:
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
        if process.returncode or not line:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command[-3:])} failed: {said.read()[-2000:]}")
    return seconds, float(line)


# Utilisation.


def utilisation(folder: Path, wanted: Iterable[Workload], *, rounds: int) -> Iterable[dict[str, Any]]:
    """Measure ours and a bare matrix product in turn."""
    try:
        product = matrix_product(folder / "product.onnx")
    except ImportError:
        print("\nleft out: utilisation, since onnx is not installed")
        return
    run, shape = CONTESTANTS["ours"].load(folder), SHAPES[folder.name]
    print(f"\n## {folder.name}: utilisation\n")
    print(f"| texts | GFLOP | ms | GFLOP/s | best of a matrix product | utilisation |\n{'|---' * 6}|")
    for workload in wanted:
        run(workload.query, workload.texts)
        rates, seconds, others = [], [], Others()
        for _ in range(rounds):
            rates.append(product())
            start = time.perf_counter()
            run(workload.query, workload.texts)
            seconds.append(time.perf_counter() - start)
        work = sum(map(shape.flops, workload.lengths))
        rate, best = work / statistics.median(seconds), max(rates)
        print(
            f"| {workload.name} | {work / 1e9:.1f} | {milliseconds(statistics.median(seconds))} | {rate / 1e9:.0f}"
            f" | {best / 1e9:.0f} | {rate / best:.0%} |",
        )
        yield {
            "workload": workload.name,
            "flop": work,
            "wall_s": seconds,
            "product_flops": rates,
            "utilisation": rate / best,
            "others": others.cores(),
        }


def matrix_product(path: Path) -> Callable[[], float]:
    """Return what measures FLOP/s of 128 x 384 by 384 x 1536 in fp32, on one thread per core: the best of ten bursts."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from rerankx.engines.pool import run_longest_first, usable_cores
    from rerankx.engines.prepare import session_of

    rows, inner, columns = 128, 384, 1536
    right = np.random.default_rng(0).normal(size=(inner, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "right"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [numpy_helper.from_array(right, "right")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    session, feed = session_of(path), {"x": np.ones((rows, inner), np.float32)}
    bursts, repeats = range(usable_cores() * 4), range(8)

    def burst(_: int) -> int:
        for _ in repeats:
            session.run(None, feed)
        return len(repeats)

    def rate() -> float:
        best = 0.0
        for _ in range(10):
            start = time.perf_counter()
            done = sum(run_longest_first(burst, bursts, sizes=[1] * len(bursts)))
            best = max(best, done * 2 * rows * inner * columns / (time.perf_counter() - start))
        return best

    return rate


# Figures and tables.


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median, upper quartile, interpolated; one value is all three."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return how many times as long as the other the one took, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def with_quartiles(values: Sequence[float], style: str) -> str:
    lower, median, upper = quartiles(values)
    return f"{median:{style}} ({lower:{style}}–{upper:{style}})"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.{0 if seconds >= 0.1 else 1}f}"


def print_speed(line: dict[str, Any]) -> None:
    measured = line["contestants"]
    print("| contestant | wall ms | quartiles | CPU ms | times as long | quartiles | scores |\n" + "|---" * 7 + "|")
    for key, rounds in measured.items():
        lower, median, upper = quartiles(rounds["wall_s"])
        low, middle, high = quartiles(ratios(rounds["wall_s"], measured["ours"]["wall_s"]))
        label = CONTESTANTS[key].label + (f" ({rounds['batch_size']})" if "batch_size" in rounds else "")
        print(
            f"| {label} | {milliseconds(median)} | {milliseconds(lower)}–{milliseconds(upper)}"
            f" | {milliseconds(statistics.median(rounds['cpu_s']))} | {middle:.2f} | {low:.2f}–{high:.2f}"
            f" | {scores_in_words(rounds['scores'], CONTESTANTS[key])} |"
        )
    if line["others"] is not None:
        disturbed = " (DISTURBED: measure again on a quiet machine)" if line["others"] > DISTURBED else ""
        print(f"\nothers took {line['others']:.2f} cores{disturbed}")
    for one, other in PAIRS:
        if one in measured and other in measured:
            times = ratios(measured[one]["wall_s"], measured[other]["wall_s"])
            print(f"{CONTESTANTS[one].label} over {CONTESTANTS[other].label}: {with_quartiles(times, '.2f')}")


def scores_in_words(scores: dict[str, Any], contestant: Contestant) -> str:
    if "why" in scores:
        return f"DIFFER: {scores['why']}"
    differ = f"{'step back by' if 'order_only' in scores else 'differ by'} {scores['max_abs']:.1g}"
    if "spearman" in scores:
        return (
            f"{contestant.gives}s {differ} (their sd {scores['spread']:.2g}), Spearman {scores['spearman']:.3f},"
            f" {scores['top_10']:.0%} of the first ten"
        )
    words = f"{contestant.gives}{'' if 'order_only' in scores else 's'} {differ} at most"
    return words if scores["equal"] else f"DIFFER: {words}"


def readme(runs: Sequence[dict[str, Any]]) -> str:
    """Return tables of one or more results: how many times as long as ours everyone took, and the rest."""
    machine, rows = runs[0]["machine"], []
    for model in dict.fromkeys(line["model"] for run in runs for line in run.get("speed", ())):
        lines = [line for run in runs for line in run.get("speed", ()) if line["model"] == model]
        keys = [key for key in CONTESTANTS if any(key in line["contestants"] for line in lines)]
        rows += [
            f"| {model} | " + " | ".join(line["workload"] for line in lines) + " |",
            "|---" * (len(lines) + 1) + "|",
        ]
        rows += [
            f"| {CONTESTANTS[key].label} | " + " | ".join(cell(line, key) for line in lines) + " |" for key in keys
        ]
        rows.append("")
    others = [(part, line) for run in runs for part in ("cold", "memory") for line in run.get(part, ())]
    if others:
        columns = list(dict.fromkeys((line["model"], part) for part, line in others))
        names = {"cold": "cold start, s", "memory": "peak memory, MB"}
        rows += ["| contestant | " + " | ".join(f"{model}: {names[part]}" for model, part in columns) + " |"]
        rows += ["|---" * (len(columns) + 1) + "|"]
        found = {
            (line["contestant"], line["model"], part): f"{line['megabytes']:.0f}"
            if part == "memory"
            else f"{statistics.median(line['wall_s']):.2f}"
            for part, line in others
        }
        for key in CONTESTANTS:
            cells = [found.get((key, *column), "–") for column in columns]
            if set(cells) != {"–"}:
                rows.append(f"| {CONTESTANTS[key].label} | " + " | ".join(cells) + " |")
        rows.append("")
    for run in runs:
        for line in run.get("utilisation", ()):
            rows.append(
                f"- {line['model']}, {line['workload']}: {line['utilisation']:.0%} of the rate of a matrix product"
            )
    disturbed = [
        f"{line['model']} {line['workload']}"
        for run in runs
        for part in ("speed", "utilisation")
        for line in run.get(part, ())
        if (line["others"] or 0) > DISTURBED
    ]
    if disturbed:
        rows.append(f"\nDISTURBED by other processes, measure again: {', '.join(dict.fromkeys(disturbed))}\n")
    counts = {len(line["contestants"]["ours"]["wall_s"]) for run in runs for line in run.get("speed", ())}
    rows.append(
        f"{machine['processor']}, {machine['cores']} cores ({machine['instructions']}); medians of"
        f" {' or '.join(map(str, sorted(counts))) or 5} rounds; {machine['versions']}."
    )
    return "\n".join(rows)


def cell(line: dict[str, Any], key: str) -> str:
    measured = line["contestants"]
    if key not in measured:
        return "–"
    seconds = milliseconds(statistics.median(measured[key]["wall_s"]))
    if key == "ours":
        return f"{seconds} ms"
    return f"{statistics.median(ratios(measured[key]['wall_s'], measured['ours']['wall_s'])):.2f} × ({seconds})"


def machine() -> dict[str, Any]:
    from rerankx.engines.pool import usable_cores

    processor, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                processor = value.strip()
            elif name.strip() == "flags":
                flags = set(value.split())
    except OSError:
        pass
    known = [flag for flag in ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    return {
        "processor": processor,
        "cores": usable_cores(),
        "instructions": ", ".join(known) or "unknown",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(versions()),
        "load at the start": load(),
    }


def versions() -> list[str]:
    packages = dict.fromkeys(contestant.package for contestant in CONTESTANTS.values())
    found = []
    for package in (*packages, "onnxruntime", "onnx", "tokenizers", "torch", "transformers", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found


def load() -> str:
    return " ".join(f"{some:.1f}" for some in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


if __name__ == "__main__":
    main()
