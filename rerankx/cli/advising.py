"""`rerankx advise`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import cast

from rerankx import demo
from rerankx.evaluation import Advice, Dataset, advise, load
from rerankx.evaluation.scoring import Progress

_EVERY_S = 30


class Bar:
    """Tells on standard error how far the scoring is and how long it may take: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._start = self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Tell that so many queries of so many are scored."""
        now = time.monotonic()
        left = (now - self._start) / done * (total - done)
        text = f"{done}/{total} queries scored, about {f'{left / 60:.0f} min' if left > 90 else f'{left:.0f} s'} left"
        if sys.stderr.isatty():
            bar = "#" * (30 * done // total)
            print(f"\r[{bar:<30}] {text:<60}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif now - self._told > _EVERY_S:
            self._told = now
            print(f"rerankx: {text}", file=sys.stderr, flush=True)


def advice(args: argparse.Namespace, progress: Progress) -> Advice:
    """Return the advice that was asked for; scores are kept in the folder, so that another run goes on from there."""
    depths = {} if args.depth is None else {"depths": args.depth}
    return advise(
        _data(args),
        args.backend,
        budget_ms=args.budget_ms,
        budget_usd=args.budget_usd,
        offline=args.offline,
        measure=args.measure,
        margin=args.margin,
        keep=Path(args.out) / "scores",
        progress=progress,
        **depths,
    )


def _data(args: argparse.Namespace) -> Dataset:
    if args.data is None:
        if args.candidates is not None or args.split != "test":
            raise ValueError("--candidates and --split belong to a collection; give its path, too")
        return demo.dataset()
    return load(args.data, split=args.split, candidates=_first_stage(args), depth=max(args.depth or [200]))


def _first_stage(args: argparse.Namespace) -> str | Path | None:
    """Return the file of candidates: as it was named, or as it is called in the folder."""
    if args.candidates is None or Path(args.candidates).exists():
        return cast("str | None", args.candidates)
    inside = (Path(args.data) / name for name in (args.candidates, f"candidates.{args.candidates}.jsonl"))
    return next((path for path in inside if path.exists()), Path(args.candidates))
