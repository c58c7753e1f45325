"""Advices to make reports from, as `Advice.to_dict` returns them, one of them made of hostile texts."""

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "</title></style></svg></pre><iframe src=//example.org>",
    "\x00\x07\x1b[31m\x7f\x85\ufffe",
    "lone \ud800 surrogate",
    "right \u202eto left\u2066",
    "&amp;&lt;&#0;&nbsp;",
    "a" * 10_000,
    "]]><!--",
)


def configuration(backend="embedded", depth=50, weight=1.0, difference=0.05, ms=60.0, method="rrf", **more):
    return {
        "name": f"{backend}, first {depth}"
        + ("" if weight == 1 else f", fused by {'rank' if method == 'rrf' else 'score'}"),
        "backend": backend,
        "model": f"{backend}:m",
        "depth": depth,
        "weight": weight,
        "method": method,
        "mean": 0.676 + difference,
        "low": 0.63 + difference,
        "high": 0.72 + difference,
        "difference": difference,
        "difference_low": difference - 0.02,
        "difference_high": difference + 0.02,
        "p50_ms": None if ms is None else 0.8 * ms,
        "p95_ms": ms,
        "usd_per_1000": 0.0,
        "within_budget": True,
        "pareto": True,
        "failed": 0,
        "degraded": 0,
        **more,
    }


def document(docid, grade, text="a text"):
    return {"docid": docid, "text": text, "grade": grade}


def advice(**changed):
    rows = [
        configuration(backend, depth, weight, difference=0.01 * i, ms=step * depth, pareto=i % 2 == 1)
        for i, (backend, step, depth, weight) in enumerate(
            (backend, step, depth, weight)
            for backend, step in (("embedded", 1), ("minilm", 14))
            for depth in (10, 50)
            for weight in (0.5, 1.0)
        )
    ]
    values = [(0.2, 0.9), (0.5, 0.5), (0.9, 0.3), (0.4, 0.6)]
    return {
        "rerankx": "advice-1",
        "version": "0.1.0",
        "dataset": "scifact",
        "first_stage": "bm25s",
        "measure": "nDCG@10",
        "queries": 300,
        "groups": 283,
        "candidates": 100,
        "decision": "rerank",
        "reason": "Rerank: embedded, first 50 gains +0.049 nDCG@10 (+0.028 to +0.071).",
        "remarks": ["One remark."],
        "issues": ["One issue."],
        "budget_ms": 100.0,
        "budget_usd": 0.5,
        "offline": False,
        "margin": 0.01,
        "level": 0.95,
        "ceiling": {
            "first": 0.676,
            "ideal": 0.93,
            "low": 0.22,
            "high": 0.29,
            "headroom": 0.254,
            "recall": {"100": 0.92, "10": 0.79},
            "without_relevant": 0.07,
        },
        "first": {"mean": 0.676, "low": 0.63, "high": 0.72},
        "crossfitted": {
            "n": 283,
            "difference": 0.049,
            "low": 0.028,
            "high": 0.071,
            "p": 0.0001,
            "sd": 0.2,
            "detectable": 0.033,
            "more_queries": None,
            "wins": 121,
            "ties": 102,
            "losses": 60,
            "verdict": "better",
            "folds": 5,
            "chosen": {"embedded, first 50": 4, "embedded, first 10": 1},
        },
        "chosen": 3,
        "configurations": rows,
        "per_query": [{"qid": str(i), "query": "q", "before": a, "after": b} for i, (a, b) in enumerate(values)],
        "regressions": [
            {
                "qid": "2",
                "query": "which one?",
                "before": 0.9,
                "after": 0.3,
                "was": [document("d1", 1), document("d2", 0)],
                "now": [document("d3", None), document("d1", 2)],
            }
        ],
        "reliability": [
            {
                "backend": "embedded",
                "method": "platt",
                "labels": 1200,
                "error": 0.03,
                "brier": 0.1,
                "note": "A note.",
                "bins": [{"low": 0.0, "high": 0.1, "predicted": 0.05, "observed": 0.04, "count": 310}],
            }
        ],
        "spec": {"backend": {"cascade": {"stages": ["retrieval", "embedded"], "keep": [50]}}},
        **changed,
    }


ENDED_BEFORE_ANY_MODEL = {
    "decision": "skip",
    "reason": "Skip: the candidates in the best order would gain +0.004 nDCG@10; improve retrieval first.",
    "crossfitted": None,
    "chosen": None,
    "configurations": [],
    "per_query": [],
    "regressions": [],
    "reliability": [],
    "spec": None,
}


def hostile(text):
    one = {**configuration(text), "name": text, "model": text}
    two = {**configuration(text, 10), "name": text + "2"}
    base = advice()
    fitted = {**base["crossfitted"], "chosen": {text: 5}}
    regression = {
        **base["regressions"][0],
        "qid": text,
        "query": text,
        "was": [document(text, 1, text)],
        "now": [document(text, None, text)],
    }
    return advice(
        dataset=text,
        first_stage=text,
        measure=text,
        version=text,
        reason=text,
        remarks=[text],
        issues=[text],
        crossfitted=fitted,
        configurations=[one, two],
        chosen=0,
        per_query=[{"qid": text, "query": text, "before": 0.1, "after": 0.2}],
        regressions=[regression],
        reliability=[{**base["reliability"][0], "backend": text, "method": text, "note": text}],
        spec={"backend": text},
    )
