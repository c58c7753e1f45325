"""`rerankx advise`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rerankx import demo
from rerankx.evaluation import Advice, Dataset, advise, load
from rerankx.evaluation.scoring import Progress


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
        return demo.dataset()
    deepest = max(args.depth or [200])
    return load(args.data, split=args.split, candidates=args.candidates, depth=deepest)
