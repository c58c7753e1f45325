"""The engine gives what the model gives, whatever is run together with what, and says clearly what it cannot run."""

import gc
import json
import math
import os
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from shutil import copyfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

pytest.importorskip("onnx", reason="needs the package onnx, by which these tests write their models")

import onnx
from graph_stage import (
    TensorProto,
    bert,
    export,
    helper,
    logits_of,
    needs_torch,
    save_graph,
    save_model,
    save_outside,
)
from torch_stage import CLASSIFIERS, save_classifier

from rerankx import BackendError, ModelNotFoundError, demo
from rerankx.engines import onnx_engine, pool
from rerankx.engines.files import ModelFiles
from rerankx.engines.onnx_engine import OnnxEngine, longest_pair, plan
from rerankx.interface import bounded, deadline

QUERY = "how long does a refund take?"
AWKWARD = {
    "short": "A refund takes five days.",
    "one-letter": "x",
    "long": "The valve is closed by turning the red handle to the right. " * 200,
    "one-word-of-20000": "x" * 20_000,
    "20000-characters": "a refund, ten days " * 1053,
    "emoji": "\U0001f600 \U0001f469\u200d\U0001f467 refund \U0001f44d\U0001f3fd",
    "chinese": "退款需要多长时间？十天。",
    "right-to-left": "\u200fكم يستغرق استرداد الأموال؟",
    "hebrew": "כמה זמן לוקח החזר כספי",
    "control": "bell \x07 escape \x1b[31m delete \x7f nul \x00 end",
    "lone-surrogate": "half a pair \ud83d and more \udc00",
    "combining": "e\u0301\u0303\u030a n\u0303",
    "special-tokens": "[CLS] a [SEP] b [PAD] [MASK] </s>",
    "signs": "?! … —",
    "unknown": "𓀀𓀁𓀂",
    "spaces": " \t a \n\n b \u3000 ",
}
MIXED = [*(passage.text for passage in demo.passages()[:30]), "yes", "It does.", "a refund " * 80]


def plain_text(text):
    return text.encode("utf-8", "replace").decode("utf-8")


def reference(folder, query, texts, *, max_tokens=512, types=True):
    """Return [texts, labels]: the plain graph on each pair alone, as the tokenizer itself encodes and cuts it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")
    feeds = []
    for text in texts:
        pair = tokenizer.encode(plain_text(query), plain_text(text))
        rows = {"input_ids": pair.ids, "attention_mask": [1] * len(pair.ids), "token_type_ids": pair.type_ids}
        if not types:
            rows["token_type_ids"] = [0] * len(pair.ids)
        feeds.append({name: np.array([row], np.int64) for name, row in rows.items()})
    return np.concatenate(logits_of(folder / "model.onnx", feeds))


def engine_of(folder, **options):
    return OnnxEngine(ModelFiles(folder), cache_dir=str(folder / "cache"), **options)


def values(logits):
    return np.array(list(logits.rows))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def engine(folder):
    return engine_of(folder)


def check(engine, folder, query, texts, tolerance=2e-5, **options):
    np.testing.assert_allclose(
        values(engine.logits(query, texts)), reference(folder, query, texts, **options), atol=tolerance, rtol=0
    )


# What it gives


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_a_text_has_the_models_logit(text, engine, folder):
    check(engine, folder, QUERY, [text])


@pytest.mark.parametrize("query", AWKWARD.values(), ids=AWKWARD)
def test_any_query_has_the_models_logits(query, engine, folder):
    check(engine, folder, query, ["A refund takes five days.", "x", "no refund " * 300])


def test_a_long_query_and_a_longer_text_are_cut_as_the_tokenizer_cuts_them(engine, folder):
    check(engine, folder, "a refund " * 2000, ["a refund, ten days " * 1053])


def test_texts_of_all_lengths_together_have_the_models_logits_in_their_order(engine, folder):
    texts = [*MIXED, *AWKWARD.values()]
    check(engine, folder, QUERY, texts)
    check(engine, folder, QUERY, texts[::-1])


def test_a_thousand_texts_have_the_models_logits(engine, folder):
    texts = [f"{i} {MIXED[i % len(MIXED)][: 20 + i % 150]}" for i in range(1000)]
    check(engine, folder, QUERY, texts)


def test_logits_are_float32_and_one_per_label(engine):
    (row,) = engine.logits(QUERY, ["a"]).rows
    assert (row.shape, row.dtype) == ((1,), np.float32)


def test_the_two_token_types_are_those_of_the_pair(engine, folder):
    texts = MIXED[:5]
    without_types = reference(folder, QUERY, texts, types=False)
    assert np.abs(reference(folder, QUERY, texts) - without_types).min() > 1e-3  # that they matter to this model
    check(engine, folder, QUERY, texts)


@needs_torch
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_it_agrees_with_sentence_transformers(kind, tmp_path):
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification

    save_classifier(kind, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    export(model, tmp_path / "model.onnx", types=kind == "bert")
    engine = engine_of(tmp_path)
    theirs = CrossEncoder(str(tmp_path), device="cpu", max_length=engine.max_tokens)
    texts = [plain_text(text) for name, text in AWKWARD.items() if name != "special-tokens"] + MIXED[-12:]
    for query in (QUERY, "退款 \U0001f600", "a refund " * 200):
        expected = theirs.predict([(query, text) for text in texts], activation_fn=torch.nn.Identity(), batch_size=8)
        np.testing.assert_allclose(values(engine.logits(query, texts))[:, 0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"types": False}, {"mask": False}, {"mask": False, "types": False}, {"int32": True}, {"window": 8}, {"labels": 3}],
    ids=str,
)
def test_graphs_with_other_inputs_give_their_logits_too(options, tmp_path):
    save_model(tmp_path, **options)
    check(engine_of(tmp_path), tmp_path, QUERY, MIXED)


def test_logits_of_half_precision_are_given_in_single(tmp_path):
    save_model(tmp_path, half=True)
    engine = engine_of(tmp_path)
    assert engine.logits(QUERY, ["a"]).rows[0].dtype == np.float32
    check(engine, tmp_path, QUERY, MIXED[:5], tolerance=2e-3)


def test_of_two_outputs_the_first_is_taken(tmp_path):
    save_model(tmp_path, more_output=True)
    check(engine_of(tmp_path), tmp_path, QUERY, MIXED)


def test_weights_in_a_file_beside_the_graph_are_read(tmp_path, folder):
    for name in ("tokenizer.json", "config.json"):
        copyfile(folder / name, tmp_path / name)
    save_outside(bert(), tmp_path / "model.onnx")
    check(engine_of(tmp_path), folder, QUERY, MIXED)


def test_a_graph_for_one_text_at_a_time_is_run_so(tmp_path):
    save_model(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    for one in model.graph.input:
        one.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "model.onnx"))
    check(engine_of(tmp_path), tmp_path, QUERY, MIXED)


def test_a_model_beside_which_nothing_is_kept_gives_the_same(folder, tmp_path):
    (tmp_path / "file").write_text("")
    plain = OnnxEngine(ModelFiles(folder), cache_dir=str(tmp_path / "file"))
    assert plain.describe()["graph"] == str(folder / "model.onnx")
    check(plain, folder, QUERY, MIXED)


def test_threads_get_what_one_gets(engine):
    alone = values(engine.logits(QUERY, MIXED))
    with ThreadPoolExecutor(8) as threads:
        for got in threads.map(lambda _: engine.logits(QUERY, MIXED), range(16)):
            np.testing.assert_allclose(values(got), alone, atol=1e-5, rtol=0)


# int8


@pytest.fixture(scope="session")
def gentle(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("gentle"), focus=0.2)


@pytest.fixture(scope="session")
def int8(gentle):
    return engine_of(gentle, precision="int8")


def test_int8_scores_do_not_depend_on_their_neighbours(int8):
    together = values(int8.logits(QUERY, MIXED))
    alone = np.concatenate([values(int8.logits(QUERY, [text])) for text in MIXED])
    assert (together == alone).all()
    assert (values(int8.logits(QUERY, MIXED[::-1]))[::-1] == together).all()


def test_int8_scores_are_near_those_of_the_model_and_not_them(int8, gentle):
    expected = reference(gentle, QUERY, MIXED)
    drift = np.abs(values(int8.logits(QUERY, MIXED)) - expected)
    assert 1e-4 < drift.max() < 0.2 * (expected.max() - expected.min())


def test_a_file_that_its_maker_quantised_is_run_one_text_at_a_time(int8, folder, tmp_path):
    for name in ("tokenizer.json", "config.json"):
        copyfile(folder / name, tmp_path / name)
    copyfile(int8.describe()["graph"], tmp_path / "model.onnx")
    engine = engine_of(tmp_path)
    alone = np.concatenate([values(engine.logits(QUERY, [text])) for text in MIXED])
    assert (values(engine.logits(QUERY, MIXED)) == alone).all()


# What it counts


def test_tokens_are_those_of_the_pairs_without_padding(engine, folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = sum(len(tokenizer.encode(QUERY, text).ids) for text in MIXED)
    assert engine.logits(QUERY, MIXED).tokens == expected


def test_a_text_given_twice_is_computed_once_and_counted_twice_when_cut(engine):
    long = "word " * 600
    once, twice = engine.logits(QUERY, [long, "x"]), engine.logits(QUERY, [long, "x", long, "x"])
    assert twice.tokens == once.tokens
    assert (sum(once.cut), sum(twice.cut)) == (1, 2)
    assert (values(twice)[:2] == values(twice)[2:]).all()


def test_a_text_that_just_fits_is_not_cut(folder):
    engine = engine_of(folder, max_tokens=16)
    special = 3
    for words, cut in ((16 - special - 1, 0), (16 - special, 1)):
        logits = engine.logits("word", ["word " * words])
        assert (sum(logits.cut), logits.tokens) == (cut, 16)


def test_a_shorter_limit_cuts_as_the_tokenizer_does(folder):
    check(engine_of(folder, max_tokens=20), folder, QUERY, MIXED, max_tokens=20)
    check(engine_of(folder, max_tokens=20), folder, "a refund " * 30, MIXED, max_tokens=20)


def test_a_deadline_that_has_passed_leaves_all_unscored(engine):
    with deadline(0):
        logits = engine.logits(QUERY, ["a", "word " * 600])
    assert logits == ([None, None], [False, False], 0)


def test_a_deadline_on_the_way_leaves_the_shortest_unscored(engine, monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    texts = ["x", *(f"{i} {'word ' * 600}" for i in range(5))]
    alone = engine.logits(QUERY, texts)
    runs, real = [], engine._run
    with bounded(math.inf) as bound:

        def run(session, pairs):
            runs.append(len(pairs))
            if len(runs) == 3:
                bound.end = -math.inf
            return real(session, pairs)

        monkeypatch.setattr(engine, "_run", run)
        logits = engine.logits(QUERY, texts)
    pool._pool.shutdown(wait=True)
    assert logits.rows[0] is None
    scored = [i for i, row in enumerate(logits.rows) if row is not None]
    assert 2 <= len(scored) <= 3
    assert sum(logits.cut) == len(scored)
    assert logits.tokens == 512 * len(scored)
    for i in scored:
        np.testing.assert_allclose(logits.rows[i], alone.rows[i], atol=1e-5)


# What is run together


def runs_of(monkeypatch, engine):
    """Return a list that gets the number of pairs of each run."""
    seen, real = [], engine._run
    monkeypatch.setattr(engine, "_run", lambda session, pairs: seen.append(len(pairs)) or real(session, pairs))
    return seen


def test_short_texts_are_run_together(engine, monkeypatch):
    seen = runs_of(monkeypatch, engine)
    engine.logits("q", [f"text {i}" for i in range(200)])
    assert sum(seen) == 200
    assert max(seen) > 10


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"mask": False}], ids=str)
def test_where_neighbours_would_show_each_text_is_a_run(options, tmp_path, monkeypatch):
    save_model(tmp_path, **{name: value for name, value in options.items() if name != "precision"})
    engine = engine_of(tmp_path, precision=options.get("precision", "fp32"))
    seen = runs_of(monkeypatch, engine)
    engine.logits("q", [f"text {i}" for i in range(20)])
    assert seen == [1] * 20


LENGTHS = st.lists(st.integers(5, 512), max_size=60).map(lambda some: {str(i): n for i, n in enumerate(some)})


@given(LENGTHS, st.integers(0, 600), st.integers(1, 8))
def test_a_plan_has_every_text_once(lengths, per_run, workers):
    planned = [text for run in plan(lengths, per_run=per_run, workers=workers) for text in run]
    assert sorted(planned) == sorted(lengths)


@given(LENGTHS, st.integers(0, 600), st.integers(1, 8))
def test_a_plan_keeps_to_its_tokens_padding_included_but_for_a_text_alone(lengths, per_run, workers):
    for run in plan(lengths, per_run=per_run, workers=workers):
        assert len(run) == 1 or len(run) * max(lengths[text] for text in run) <= per_run


@given(LENGTHS, st.integers(0, 600), st.integers(1, 8))
def test_a_plan_begins_with_the_longest(lengths, per_run, workers):
    planned = [lengths[text] for run in plan(lengths, per_run=per_run, workers=workers) for text in run]
    assert planned == sorted(planned, reverse=True)


@given(LENGTHS, st.integers(0, 600), st.integers(1, 8))
def test_a_plan_gives_no_worker_more_than_its_share_but_for_a_text_alone(lengths, per_run, workers):
    share = math.ceil(sum(lengths.values()) / workers)
    for run in plan(lengths, per_run=per_run, workers=workers):
        assert len(run) == 1 or len(run) * max(lengths[text] for text in run) <= share


def test_a_plan_fills_its_runs():
    lengths = {str(i): 20 for i in range(120)}
    assert [len(run) for run in plan(lengths, per_run=240, workers=2)] == [12] * 10
    assert [len(run) for run in plan(lengths, per_run=10**6, workers=2)] == [60, 60]


@given(LENGTHS)
def test_a_plan_without_tokens_to_share_has_one_text_in_each_run(lengths):
    assert all(len(run) == 1 for run in plan(lengths, per_run=0, workers=2))


# All cores for a long text


@pytest.fixture
def widened(folder, monkeypatch):
    """An engine to which anything is long, and the list of threads of the sessions that are made."""
    threads, real = [], onnx_engine.session_of
    monkeypatch.setattr(
        onnx_engine,
        "session_of",
        lambda path, threads=1, _seen=threads: _seen.append(threads) or real(path, threads=threads),
    )
    monkeypatch.setattr(onnx_engine, "usable_cores", lambda: 2)
    monkeypatch.setattr(onnx_engine, "_LONG", 16)
    return engine_of(folder), threads


def test_a_lone_long_text_has_all_cores_and_the_same_logits(widened, folder):
    engine, threads = widened
    check(engine, folder, QUERY, ["a refund " * 100])
    assert threads == [1, 2]
    check(engine, folder, QUERY, ["no refund " * 100])
    assert threads == [1, 2]


def test_a_lone_short_text_has_not(widened, folder):
    engine, threads = widened
    check(engine, folder, "a", ["x"])
    assert threads == [1]


def test_long_texts_in_company_are_run_beside_each_other(widened, folder):
    engine, threads = widened
    check(engine, folder, QUERY, ["a refund " * 40, "no refund " * 40])
    assert threads == [1]


def test_a_large_model_is_not_held_twice(widened, folder, monkeypatch):
    monkeypatch.setattr(onnx_engine, "_SMALL", 1000)
    engine, threads = widened
    check(engine, folder, QUERY, ["a refund " * 100])
    assert threads == [1]


def test_one_core_needs_no_second_session(widened, folder, monkeypatch):
    monkeypatch.setattr(onnx_engine, "usable_cores", lambda: 1)
    engine, threads = widened
    check(engine, folder, QUERY, ["a refund " * 100])
    assert threads == [1]


def test_long_texts_of_several_callers_have_the_models_logits(widened, folder):
    engine, _ = widened
    texts = [f"{i} a refund " * 60 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda text: values(engine.logits(QUERY, [text])), texts))
    np.testing.assert_allclose(np.concatenate(got), reference(folder, QUERY, texts), atol=1e-4, rtol=0)


def in_child(work):
    """Return how a forked child ends that does this: 0 as it should, 1 with an error, -14 when it hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def marked(test):
    for mark in forks:
        test = mark(test)
    return test


@marked
def test_a_forked_child_scores_as_its_parent(engine):
    expected = values(engine.logits(QUERY, MIXED))
    assert in_child(lambda: np.testing.assert_allclose(values(engine.logits(QUERY, MIXED)), expected, atol=1e-5)) == 0


@marked
def test_a_forked_child_scores_a_long_text_with_cores_of_its_own(widened):
    engine, threads = widened
    long = ["a refund " * 100]
    expected = values(engine.logits(QUERY, long))

    def work():
        np.testing.assert_allclose(values(engine.logits(QUERY, long)), expected, atol=1e-5)
        assert threads == [1, 2, 2]

    assert in_child(work) == 0


@marked
def test_a_forked_child_may_let_go_of_the_engine(folder, monkeypatch):
    monkeypatch.setattr(onnx_engine, "usable_cores", lambda: 2)
    monkeypatch.setattr(onnx_engine, "_LONG", 16)
    engines = [engine_of(folder)]
    engines[0].logits(QUERY, ["a refund " * 100])

    def work():
        engines.clear()
        gc.collect()

    assert in_child(work) == 0


@marked
def test_a_child_forked_during_a_run_is_not_held_up_by_it(widened, monkeypatch):
    engine, _ = widened
    long, begun, go_on, parent = ["a refund " * 100], threading.Event(), threading.Event(), os.getpid()
    expected, real = values(engine.logits(QUERY, long)), engine._run

    def run(session, pairs):
        if os.getpid() == parent:
            begun.set()
            go_on.wait(30)
        return real(session, pairs)

    monkeypatch.setattr(engine, "_run", run)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(engine.logits, QUERY, long)
        begun.wait(10)
        code = in_child(lambda: np.testing.assert_allclose(values(engine.logits(QUERY, long)), expected, atol=1e-5))
        go_on.set()
        busy.result(30)
    assert code == 0


def test_an_engine_that_nobody_holds_frees_its_sessions(folder, monkeypatch):
    monkeypatch.setattr(onnx_engine, "usable_cores", lambda: 2)
    monkeypatch.setattr(onnx_engine, "_LONG", 16)
    engine, used = engine_of(folder), []
    run = engine._run
    engine._run = lambda session, pairs: used.append(weakref.ref(session)) or run(session, pairs)
    engine.logits(QUERY, ["a refund " * 100])
    engine.logits("q", ["x"])
    assert len({id(session()) for session in used}) == 2
    engine = run = None
    gc.collect()
    assert [session() for session in used] == [None, None]


# How long a pair may be


def files_with(folder, config, tokenizer_config=None):
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return ModelFiles(folder)


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "longest"),
    [
        ({}, None, None),
        ({"max_position_embeddings": 512}, None, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 256}, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": 1024}, 512),
        ({"max_position_embeddings": 8192}, {"model_max_length": int(1e30)}, 8192),
        ({"max_position_embeddings": 8192}, {"model_max_length": 1e30}, 8192),
        ({}, {"model_max_length": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, None, 512),
        (
            {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1},
            {"model_max_length": 512},
            512,
        ),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194, "pad_token_id": 1}, {}, 8192),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, None, 512),
        ({"max_position_embeddings": -1}, None, None),
        ({"max_position_embeddings": None}, {"model_max_length": None}, None),
    ],
)
def test_the_longest_pair_is_what_both_configurations_allow(config, tokenizer_config, longest, tmp_path):
    assert longest_pair(files_with(tmp_path, config, tokenizer_config)) == longest


@pytest.mark.parametrize("kind", ["camembert", "mpnet", "longformer", "xmod", "data2vec-text", "luke"])
def test_roberta_under_other_names_has_as_many_positions_less(kind, tmp_path):
    config = {"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1}
    assert longest_pair(files_with(tmp_path, config)) == 512


@needs_torch
def test_robertas_longest_pair_is_one_that_it_takes(tmp_path):
    from transformers import AutoModelForSequenceClassification

    save_classifier("xlm-roberta", tmp_path)  # 514 positions, and a tokenizer that knows no limit
    export(AutoModelForSequenceClassification.from_pretrained(tmp_path), tmp_path / "model.onnx", types=False)
    engine = engine_of(tmp_path)
    assert engine.max_tokens == 512
    assert engine.logits("q", ["word " * 2000]).tokens == 512


def test_a_model_that_does_not_say_reads_512_tokens(tmp_path):
    save_model(tmp_path)
    (tmp_path / "config.json").unlink()
    assert engine_of(tmp_path).max_tokens == 512


def test_its_longest_pair_is_the_default_and_the_most(folder):
    assert engine_of(folder).max_tokens == 512
    assert engine_of(folder, max_tokens=512).max_tokens == 512
    with pytest.raises(ValueError, match="reads pairs of up to 512 tokens; max_tokens is 513"):
        engine_of(folder, max_tokens=513)


@pytest.mark.parametrize("tokens", [-1, 4, 0])
def test_too_few_tokens_for_a_pair_are_refused(tokens, folder):
    with pytest.raises(ValueError, match=f"max_tokens must be at least 5, not {tokens}"):
        engine_of(folder, max_tokens=tokens)


def test_it_says_how_it_runs_in_words_that_json_knows(engine, int8):
    said = json.loads(json.dumps(engine.describe()))
    assert {"engine": "onnx", "device": "cpu", "precision": "fp32", "max_tokens": 512}.items() <= said.items()
    assert said["graph"].endswith("one-row.onnx")
    assert said["last_layer"].startswith("first row")
    assert int8.describe()["precision"] == "int8"


# What it refuses


def test_a_folder_without_a_graph_is_an_error_that_says_what_was_looked_for(tmp_path):
    save_model(tmp_path, name="other.onnx")
    with pytest.raises(ModelNotFoundError, match=r"has no ONNX graph; looked for onnx/model.onnx and model.onnx"):
        engine_of(tmp_path)


def test_the_graph_may_lie_where_one_says(tmp_path):
    save_model(tmp_path, name="onnx/other.onnx")
    engine = engine_of(tmp_path, graphs=("onnx/other.onnx",))
    assert engine.logits("q", ["a"]).rows[0] is not None


def test_the_graph_in_the_folder_onnx_comes_first(tmp_path):
    save_model(tmp_path)
    save_graph(bert(seed=1), tmp_path / "onnx")
    expected = values(engine_of(tmp_path, graphs=("onnx/model.onnx",)).logits("q", ["a"]))
    assert values(engine_of(tmp_path).logits("q", ["a"])) == expected


def test_a_missing_tokenizer_is_an_error_that_says_what_writes_one(tmp_path):
    save_model(tmp_path, tokenizer=False)
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer.json .*save_pretrained"):
        engine_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "New"}}'])
def test_a_broken_tokenizer_is_an_error_that_names_the_file(content, tmp_path):
    save_model(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"tokenizer.json is no tokenizer that tokenizers reads"):
        engine_of(tmp_path)


def test_a_tokenizer_that_makes_no_pairs_is_an_error(tmp_path):
    save_model(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="$B [SEP] $A", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelNotFoundError, match="does not make pairs"):
        engine_of(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cut", [0, 10, 5000])
def test_a_corrupted_graph_is_an_error_that_names_the_file(cut, precision, tmp_path):
    path = save_model(tmp_path) / "model.onnx"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx"):
        engine_of(tmp_path, precision=precision)


def test_a_corrupted_graph_is_called_so_with_its_size(tmp_path):
    (save_model(tmp_path) / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(
        ModelNotFoundError, match=r"model.onnx \(8 bytes\) is no ONNX graph that onnxruntime [0-9.]+ loads"
    ):
        engine_of(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 91011230\n"


@pytest.mark.parametrize(
    "precision",
    ["fp32", "int8"],
)
def test_a_pointer_of_git_lfs_is_called_so(precision, tmp_path):
    (save_model(tmp_path) / "model.onnx").write_bytes(POINTER)
    with pytest.raises(ModelNotFoundError, match="pointer of Git LFS, not the file; run `git lfs pull`"):
        engine_of(tmp_path, precision=precision)


def test_inputs_that_are_no_whole_numbers_are_named(tmp_path):
    save_model(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[i] = "whole_mask"
    model.graph.node.insert(0, helper.make_node("Cast", ["attention_mask"], ["whole_mask"], to=TensorProto.INT64))
    (mask,) = (one for one in model.graph.input if one.name == "attention_mask")
    mask.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(ModelNotFoundError, match=r"takes attention_mask as tensor\(float\); .* whole numbers"):
        engine_of(tmp_path)


def with_input(folder, name):
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.node[-1].output[0] = "bare"
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))
    model.graph.node.append(helper.make_node("Cast", [name], ["more"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Add", ["bare", "more"], ["logits"]))
    onnx.save(model, str(folder / "model.onnx"))


def test_an_input_that_it_does_not_know_is_named(tmp_path):
    with_input(save_model(tmp_path), "position_ids")
    with pytest.raises(ModelNotFoundError, match=r"has the inputs .*position_ids; a cross-encoder has input_ids"):
        engine_of(tmp_path)


def test_a_graph_for_texts_of_one_length_is_refused(tmp_path):
    save_model(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    for one in model.graph.input:
        one.type.tensor_type.shape.dim[1].dim_value = 128
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(ModelNotFoundError, match="reads 128 tokens, no more and no less; export it with dynamic axes"):
        engine_of(tmp_path)


@pytest.mark.parametrize("head", ["all", "flat"])
def test_an_output_of_another_shape_is_an_error_that_says_which(head, tmp_path):
    save_model(tmp_path, head=head)
    with pytest.raises(BackendError, match=r"gave an array of shape \(.* for [12] pairs; expected \[pairs, labels\]"):
        engine_of(tmp_path).logits("q", ["a", "b"])


# What was kept, and is spoilt


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cut", [0, 1000])
def test_a_kept_graph_that_is_spoilt_is_made_anew(cut, precision, tmp_path):
    save_model(tmp_path)
    engine = engine_of(tmp_path, precision=precision)
    expected, kept = values(engine.logits(QUERY, MIXED)), engine._path
    kept.write_bytes(kept.read_bytes()[:cut])
    again = engine_of(tmp_path, precision=precision)
    assert again._path == kept
    assert (values(again.logits(QUERY, MIXED)) == expected).all()


def test_a_kept_graph_that_is_spoilt_and_cannot_be_removed_is_done_without(tmp_path, monkeypatch):
    save_model(tmp_path)
    engine = engine_of(tmp_path)
    engine._path.write_bytes(b"")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    check(engine_of(tmp_path), tmp_path, QUERY, MIXED)
