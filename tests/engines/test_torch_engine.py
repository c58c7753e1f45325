"""Any checkpoint on torch: the scores of sentence-transformers itself, the prompts of the makers' own code, and clear errors."""

import json
import logging
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch_stage
from torch_stage import CAUSAL, CLASSIFIERS, WHY_NOT, save_causal, save_classifier, word_piece

from rerankx import BackendError, ModelNotFoundError, demo
from rerankx.catalogue.templates import TEMPLATES, Template
from rerankx.engines.files import ModelFiles
from rerankx.engines.pairs import PairTokenizer
from rerankx.interface import deadline

torch = pytest.importorskip("torch", reason=WHY_NOT)
sentence_transformers = pytest.importorskip("sentence_transformers", reason=WHY_NOT)

from rerankx.engines.torch_engine import TorchEngine  # noqa: E402

classifiers, causal_seeds = torch_stage.classifiers, torch_stage.causal_seeds

PASSAGES = [passage.text for passage in demo.passages()]
QUERY = "how long does a refund take?"
AWKWARD = [
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u9000\u6b3e\u9700\u8981\u4e94\u5929",
    "\u0643\u0645 \u064a\u0633\u062a\u063a\u0631\u0642 \u0627\u0644\u0631\u062f",
    "a\x00b\x07c\u200b",
    "half \ud83d of it",
    "x",
    "e\u0301",
]


@pytest.fixture(scope="module", params=CLASSIFIERS)
def both(request, classifiers):
    """Ours, and sentence-transformers' own."""
    folder = str(classifiers[request.param])
    engine = TorchEngine(ModelFiles(folder))
    own = sentence_transformers.CrossEncoder(folder, device="cpu", max_length=engine.max_tokens)
    return engine, own


def published(own, query, texts):
    pairs = [[some.encode("utf-8", "replace").decode("utf-8") for some in (query, text)] for text in texts]
    return own.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def values(found):
    return np.array([row[0] for row in found.rows])


@pytest.fixture(scope="module")
def bert(classifiers):
    return TorchEngine(ModelFiles(classifiers["bert"]))


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        (QUERY, [*PASSAGES[:20], "short", " ".join(PASSAGES[:8])]),
        (QUERY, PASSAGES[:1]),
        (QUERY, [text[: 20 + i] for i, text in enumerate((PASSAGES * 10)[:200])]),
        (QUERY, [(" ".join(PASSAGES) * 3)[:20_000], "short"]),
        (" ".join(PASSAGES[:40]), [PASSAGES[0], "x", " ".join(PASSAGES[:8])]),
        (QUERY, AWKWARD),
        (AWKWARD[4], AWKWARD),
    ],
    ids=["mixed", "one", "200", "20,000 characters", "long query", "awkward", "awkward query"],
)
def test_scores_are_those_of_sentence_transformers(both, query, texts):
    engine, own = both
    found = engine.logits(query, texts)
    assert all(row.dtype == np.float32 and row.shape == (1,) for row in found.rows)
    np.testing.assert_allclose(values(found), published(own, query, texts), atol=1e-4)


def test_every_label_has_its_logit(tmp_path):
    folder = str(save_classifier("bert", tmp_path, labels=3))
    found = TorchEngine(ModelFiles(folder)).logits(QUERY, PASSAGES[:5])
    own = sentence_transformers.CrossEncoder(folder, device="cpu")
    np.testing.assert_allclose(np.stack(found.rows), published(own, QUERY, PASSAGES[:5]), atol=1e-4)


def test_pairs_and_counts_are_those_of_the_onnx_engine(classifiers):
    engine = TorchEngine(ModelFiles(classifiers["bert"]), max_tokens=40)
    pairs = PairTokenizer(word_piece(), max_tokens=40)
    texts = ["short", "a[SEP]b", PASSAGES[0] * 3, "fits " * (40 - pairs.join(pairs.ids(QUERY), pairs.ids("")).ids.size)]
    expected = [pairs.join(pairs.ids(QUERY), pairs.ids(text)) for text in texts]
    read = engine._reader.read(QUERY, texts)
    assert [one.features["input_ids"] for one in read] == [pair.ids.tolist() for pair in expected]
    assert [one.features["token_type_ids"] for one in read] == [pair.types.tolist() for pair in expected]
    found = engine.logits(QUERY, texts)
    assert sum(found.cut) == sum(pair.cut for pair in expected) == 1
    assert found.tokens == sum(len(pair.ids) for pair in expected)


def test_batches_are_cut_by_padded_tokens_longest_first(classifiers):
    engine = TorchEngine(ModelFiles(classifiers["bert"]), tokens_per_batch=256)
    shapes = []
    engine._encoder.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0]["input_ids"].shape)))
    engine.logits(QUERY, [*PASSAGES[:10], *(text[:60] for text in PASSAGES[:20]), " ".join(PASSAGES[:20])])
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 512  # a pair that is longer than the budget has a batch to itself
    assert all(pairs == 1 or pairs * width <= 256 for pairs, width in shapes)
    assert any(pairs > 3 for pairs, _ in shapes)


def test_the_limit_is_the_models_own(classifiers):
    # 514 positions of XLM-RoBERTa are 512 tokens, whatever its tokenizer says.
    assert [TorchEngine(ModelFiles(classifiers[kind])).max_tokens for kind in CLASSIFIERS] == [512, 512, 1024]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 513}, "max_tokens must be at most 512"),
        ({"max_tokens": 4}, "max_tokens must be at least 5, not 4"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        ({"tokens_per_batch": 1.5}, "tokens_per_batch must be a whole number"),
        ({"precision": "int8"}, "precision must be 'fp32', 'fp16' or 'bf16', not 'int8'"),
        ({"device": "gpu"}, "device must be one that torch knows"),
        ({"template": "qwen"}, "no template 'qwen'; did you mean 'qwen3'"),
        ({"instruction": "find code"}, "an instruction is for a model with a template"),
        ({"instruction": " ", "template": "qwen3"}, "the instruction is blank"),
    ],
)
def test_options_that_do_not_fit_are_refused(classifiers, options, message):
    with pytest.raises(ValueError, match=message):
        TorchEngine(ModelFiles(classifiers["bert"]), **options)


def test_it_says_how_it_runs(bert):
    told = bert.describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["engine"], told["device"], told["precision"]) == ("sentence-transformers", "cpu", "fp32")
    assert set(told["versions"]) == {"sentence-transformers", "transformers", "torch"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_comes_back_as_float32(classifiers, bert, precision):
    half = TorchEngine(ModelFiles(classifiers["bert"]), precision=precision)
    found = half.logits(QUERY, PASSAGES[:10])
    assert half._encoder.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert all(row.dtype == np.float32 for row in found.rows)
    np.testing.assert_allclose(values(found), values(bert.logits(QUERY, PASSAGES[:10])), atol=0.1)


def test_threads_get_what_one_gets_alone(bert):
    lists = [PASSAGES[i : i + 10] for i in range(0, 60, 10)]
    alone = [values(bert.logits(QUERY, texts)) for texts in lists]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda texts: values(bert.logits(QUERY, texts)), lists * 2))
    for got, expected in zip(together, alone * 2, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_deadline_that_has_passed_leaves_everything_unscored(bert):
    with deadline(0):
        found = bert.logits(QUERY, PASSAGES[:3])
    assert (list(found.rows), list(found.cut), found.tokens) == ([None] * 3, [False] * 3, 0)


def test_a_deadline_stops_between_batches(classifiers, monkeypatch):
    engine = TorchEngine(ModelFiles(classifiers["bert"]), tokens_per_batch=1)
    batches = []
    engine._encoder.register_forward_pre_hook(lambda *_: batches.append(1))
    monkeypatch.setattr("rerankx.engines.torch_engine.out_of_time", lambda: lambda: len(batches) == 2)
    found = engine.logits(QUERY, ["x", PASSAGES[0] + PASSAGES[1], "y", PASSAGES[0]])
    assert [row is not None for row in found.rows] == [False, True, False, True]
    assert found.tokens == sum(
        one.tokens for one in engine._reader.read(QUERY, [PASSAGES[0], PASSAGES[0] + PASSAGES[1]])
    )


@pytest.mark.parametrize(
    "said", ["CUDA out of memory. Tried to allocate 2 GiB", "MPS backend out of memory", "not enough memory: you tried"]
)
def test_out_of_memory_halves_the_batch_and_remembers_it(classifiers, bert, said):
    engine = TorchEngine(ModelFiles(classifiers["bert"]), tokens_per_batch=4096)
    sizes = fail_above(engine, 3, said)
    found = engine.logits(QUERY, PASSAGES[:12])
    np.testing.assert_allclose(values(found), values(bert.logits(QUERY, PASSAGES[:12])), atol=1e-5)
    assert sizes[0] == 12
    assert max(sizes[-3:]) <= 3
    del sizes[:]
    engine.logits(QUERY, PASSAGES[:12])
    assert max(sizes) <= 6  # not from the start again


def test_a_pair_that_does_not_fit_alone_ends_it(classifiers):
    engine = TorchEngine(ModelFiles(classifiers["bert"]))
    sizes = fail_above(engine, 0, "CUDA out of memory")
    with pytest.raises(BackendError, match=r"a single pair of .* lower max_tokens, take precision='fp16' or a smaller"):
        engine.logits(QUERY, PASSAGES[:8])
    assert len(sizes) <= 4


def test_other_errors_of_the_device_pass_at_once(classifiers):
    engine = TorchEngine(ModelFiles(classifiers["bert"]))
    sizes = fail_above(engine, 0, "CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        engine.logits(QUERY, PASSAGES[:8])
    assert len(sizes) == 1


def fail_above(engine, most, said):
    """Make the encoder raise for more than `most` pairs; return the list of batch sizes that it sees."""
    sizes = []

    class Small(torch.nn.Module):
        def forward(self, features):
            sizes.append(len(features["input_ids"]))
            if sizes[-1] > most:
                raise RuntimeError(said)
            return features

    engine._encoder.append(Small())
    return sizes


@pytest.fixture
def copied(classifiers, tmp_path):
    def copy(*without):
        shutil.copytree(classifiers["bert"], tmp_path / "m", ignore=shutil.ignore_patterns(*without))
        return tmp_path / "m"

    return copy


def refused(folder, message, **options):
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        TorchEngine(folder if isinstance(folder, ModelFiles) else ModelFiles(folder), **options)
    return str(caught.value)


def test_a_folder_without_configuration_is_refused(copied):
    refused(copied("config.json"), "has no configuration; looked for config.json")


def test_a_configuration_that_is_no_json_is_refused(copied):
    folder = copied()
    (folder / "config.json").write_text("{")
    refused(folder, "config.json .*JSON")


def test_a_folder_without_tokenizer_is_refused(copied):
    refused(copied("tokenizer.json"), "has no tokenizer; looked for tokenizer.json")


def test_a_pickle_is_never_read(copied):
    folder = copied("*.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    refused(folder, "no weights in safetensors .a pickle .* is never read.*save_pretrained, or take engine='onnx'")


def test_damaged_weights_are_refused(copied):
    folder = copied()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(folder, "cannot be loaded from .*; if a file is damaged, delete it and fetch it anew")


def test_missing_shards_are_refused(copied):
    folder = copied("*.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "has no shard of the weights; looked for model-00001-of-00002.safetensors")


def test_code_from_the_repository_is_not_run(copied):
    folder = copied()
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "theirs", "auto_map": {
        "AutoConfig": "theirs.Config", "AutoModelForSequenceClassification": "theirs.Model"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("raise SystemExit('run!')")
    refused(folder, "wants to run code from its own repository, and rerankx runs none; take engine='onnx'")


def test_weights_that_would_be_made_up_are_refused(tmp_path):
    import transformers

    save_classifier("bert", tmp_path)
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "is no reranker as it stands: its files lack 2 of the weights that one has, 'classifier")


def test_a_model_of_single_texts_is_refused(copied):
    folder = copied()
    (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    refused(folder, "is no reranker as it stands: it was saved to make vectors of single texts")


def test_a_language_model_needs_a_template(causal_seeds):
    refused(next(causal_seeds("qwen3")), r"is a language model \(Qwen3ForCausalLM\).*say which: template='qwen3' or ")


def test_a_template_needs_a_language_model(classifiers):
    refused(classifiers["bert"], "is saved as BertForSequenceClassification.* leave the template out", template="qwen3")


def test_neither_folder_nor_in_the_cache_is_said(tmp_path):
    files = ModelFiles("nobody/nothing", cache_dir=str(tmp_path), local_files_only=True)
    refused(files, "'nobody/nothing' is not in the cache, and the hub must not be asked")


def test_weights_that_do_not_fit_are_the_backends_fault(classifiers, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("rerankx.engines.torch_checkpoint._load", fail)
    with pytest.raises(BackendError, match="does not fit into the memory of 'cpu'"):
        TorchEngine(ModelFiles(classifiers["bert"]))


def test_a_folder_that_sentence_transformers_saved_runs(both, tmp_path):
    engine, own = both
    own.save_pretrained(str(tmp_path))
    assert (tmp_path / "modules.json").is_file()
    again = TorchEngine(ModelFiles(tmp_path))
    np.testing.assert_allclose(
        values(again.logits(QUERY, PASSAGES[:5])), values(engine.logits(QUERY, PASSAGES[:5])), atol=1e-6
    )


def test_prompts_that_the_checkpoint_brings_are_used(classifiers, tmp_path):
    own = sentence_transformers.CrossEncoder(
        str(classifiers["bert"]), device="cpu", prompts={"ask": "question: "}, default_prompt_name="ask"
    )
    own.save_pretrained(str(tmp_path))
    engine = TorchEngine(ModelFiles(tmp_path))
    found = values(engine.logits(QUERY, PASSAGES[:5]))
    np.testing.assert_allclose(found, published(own, QUERY, PASSAGES[:5]), atol=1e-4)


def test_a_chat_template_that_the_checkpoint_brings_is_used(causal_seeds, tmp_path):
    from sentence_transformers.cross_encoder.modules import LogitScore, Transformer

    first = Transformer(str(next(causal_seeds("qwen3"))), transformer_task="text-generation")
    first.tokenizer.chat_template = (
        "{% for message in messages %}"
        "<|im_start|>{{ message.role }}: {{ message.content }}<|im_end|>"
        "{% endfor %}"
        "answer:"
    )
    answers = [first.tokenizer.convert_tokens_to_ids(name) for name in ("yes", "no")]
    sentence_transformers.CrossEncoder(modules=[first, LogitScore(*answers)], device="cpu").save_pretrained(
        str(tmp_path)
    )
    own = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu", max_length=200)
    assert "message" in own.modalities
    engine = TorchEngine(ModelFiles(tmp_path), max_tokens=200)
    texts = [*(text[:100] for text in PASSAGES[:5]), " ".join(PASSAGES[:20])]
    found = engine.logits(QUERY, texts)
    np.testing.assert_allclose(values(found), published(own, QUERY, texts), atol=1e-4)
    assert sum(found.cut) == 1


def test_loading_leaves_everything_as_it_was_and_says_nothing(classifiers, causal_seeds, capfd, caplog):
    from transformers.utils import logging as progress

    for name in ("transformers", "sentence_transformers"):
        caplog.set_level(logging.WARNING, logger=name)  # whatever was loaded before

    def state():
        levels = [logging.getLogger(name).level for name in ("", "transformers", "sentence_transformers")]
        return (
            levels,
            progress.is_progress_bar_enabled(),
            torch.get_num_threads(),
            dict(os.environ),
            list(warnings.filters),
        )

    before = state()
    folders = [*classifiers.values(), next(causal_seeds("qwen3"))]
    capfd.readouterr()
    for folder in folders:
        TorchEngine(ModelFiles(folder), **({} if folder in classifiers.values() else {"template": "qwen3"}))
    with pytest.raises(ModelNotFoundError):
        TorchEngine(ModelFiles(folders[-1]))
    assert state() == before
    assert capfd.readouterr() == ("", "")


# Language models.


@pytest.fixture(scope="module", params=CAUSAL)
def asked(request, causal_seeds):
    """The first seed of a kind whose random weights happen to pass the check; how many did not."""
    template = CAUSAL[request.param]
    for seed, folder in enumerate(causal_seeds(request.param)):
        try:
            engine = TorchEngine(ModelFiles(folder), template=template, max_tokens=400)
        except ModelNotFoundError:
            continue
        return SimpleNamespace(engine=engine, folder=folder, template=template, kind=request.param, seed=seed)
    raise AssertionError("no seed passed")


def providers_ids(kind, tokenizer, query, text):
    """Return the ids as the makers' own code joins them, for a pair that fits."""

    def ids(some):
        return tokenizer(some, add_special_tokens=False)["input_ids"]

    if kind == "qwen3":  # the model card's process_inputs
        system = (
            "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the"
            ' answer can only be "yes" or "no".'
        )
        task = "Given a web search query, retrieve relevant passages that answer the query"
        body = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {text}"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "@"}]
        prefix, suffix = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True).split("@")
        return ids(prefix) + ids(body) + ids(suffix + "<think>\n\n</think>\n\n")
    if kind == "gemma":  # FlagEmbedding's compute_score_single_gpu
        prompt = (
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a"
            " prediction of either 'Yes' or 'No'."
        )
        sep = ids("\n")
        return [tokenizer.bos_token_id, *ids("A: " + query), *sep, *ids("B: " + text), *sep, *ids(prompt)]
    # mxbai-rerank's prepare_inputs and concat_input_ids
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair,"
        " carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not"
        " relevant, 1 for relevant).\nRelevance:"
    )
    messages = [
        {"role": "system", "content": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
        {"role": "user", "content": "@"},
    ]
    prefix, suffix = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True).split("@")
    sep = ids("\n")
    return [*ids(prefix), *ids(f"query: {query}"), *sep, *ids(f"document: {text}"), *sep, *ids(task), *ids(suffix)]


def fresh(asked):
    """Return the checkpoint as transformers loads it, and the ids of its answers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.folder).eval()
    names = {"qwen3": ("yes", "no"), "gemma": ("Yes",), "qwen2": ("1", "0")}[asked.kind]
    return tokenizer, model, [tokenizer.convert_tokens_to_ids(name) for name in names]


def test_prompts_and_scores_are_those_of_the_makers_code(asked):
    tokenizer, model, answers = fresh(asked)
    texts = [PASSAGES[0], "x", *AWKWARD[:4], PASSAGES[1] + "\n\n" + PASSAGES[2][:100]]
    read = asked.engine._reader.read(QUERY, texts)
    expected = []
    for one, text in zip(read, texts, strict=True):
        ids = providers_ids(asked.kind, tokenizer, QUERY, text)
        assert one.features["input_ids"] == ids
        assert not one.cut
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected.append(float(logits[answers[0]] - (logits[answers[1]] if len(answers) > 1 else 0)))
    found = asked.engine.logits(QUERY, texts)  # padded, in batches
    np.testing.assert_allclose(values(found), expected, atol=1e-4)
    assert found.tokens == sum(one.tokens for one in read)


def test_the_sigmoid_of_a_score_is_the_published_probability(asked):
    tokenizer, model, answers = fresh(asked)
    ids = torch.tensor([providers_ids(asked.kind, tokenizer, QUERY, PASSAGES[0])])
    with torch.inference_mode():
        logits = model(ids).logits[0, -1, answers]
    # The makers take the softmax of two answers; FlagEmbedding's normalize=True the sigmoid of its one.
    probability = torch.softmax(logits, 0)[0] if len(answers) > 1 else torch.sigmoid(logits[0])
    (score,) = values(asked.engine.logits(QUERY, PASSAGES[:1]))
    assert 1 / (1 + np.exp(-score)) == pytest.approx(float(probability), abs=1e-5)


def test_only_the_document_is_cut(asked):
    long = " ".join(PASSAGES[:60])
    whole, one = (asked.engine._reader.read(QUERY, [text])[0] for text in ("", long))
    ids, frame = one.features["input_ids"], whole.features["input_ids"]
    assert one.cut
    assert len(ids) == asked.engine.max_tokens
    # What comes before the document, but for the token at the seam, and all of what comes behind it.
    same = next(i for i, (a, b) in enumerate(zip(ids, frame, strict=False)) if a != b)
    tokenizer = asked.engine._encoder.tokenizer
    assert QUERY in tokenizer.decode(ids[: same + 1])
    behind = len(frame) - same - 1
    assert behind > 3
    assert ids[-behind:] == frame[-behind:]
    assert long[:100] in tokenizer.decode(ids)


def test_a_long_query_leaves_the_documents_a_place(asked):
    long = " ".join(PASSAGES[:60])
    read = asked.engine._reader.read(long, ["refunds take five days", long])
    assert [one.cut for one in read] == [True, True]
    assert "refunds take five days" in asked.engine._encoder.tokenizer.decode(read[0].features["input_ids"])
    assert read[1].tokens == asked.engine.max_tokens
    assert np.ptp(values(asked.engine.logits(long, [*PASSAGES[:4]]))) > 0


def test_no_document_ends_the_prompt(asked):
    tokenizer = asked.engine._encoder.tokenizer
    for special in tokenizer.all_special_tokens:
        number = tokenizer.convert_tokens_to_ids(special)
        plain, forged = (
            one.features["input_ids"].count(number)
            for one in asked.engine._reader.read(QUERY, ["a text", f"a {special} text"])
        )
        assert plain == forged


def test_half_precision_keeps_the_answers_apart(asked):
    half = TorchEngine(ModelFiles(asked.folder), template=asked.template, max_tokens=400, precision="bf16")
    head = half._encoder[0].model.get_output_embeddings()
    assert head.weight.dtype == torch.float32
    found = half.logits(QUERY, PASSAGES[:20])
    assert len(set(values(found).tolist())) == 20  # in bf16 many would be equal
    np.testing.assert_allclose(values(found), values(asked.engine.logits(QUERY, PASSAGES[:20])), atol=0.5)


@pytest.mark.parametrize("kind", CAUSAL)
def test_weights_that_tell_nothing_apart_are_refused(causal_seeds, kind):
    for folder in causal_seeds(kind):
        try:
            TorchEngine(ModelFiles(folder), template=CAUSAL[kind])
        except ModelNotFoundError as caught:
            error = str(caught)
            break
    assert "its scores would be noise; the template or the checkpoint is not the right one" in error
    assert CAUSAL[kind] in error


def test_an_instruction_takes_the_place_of_the_templates(asked):
    told = TorchEngine(ModelFiles(asked.folder), template=asked.template, max_tokens=400, instruction="find code")
    prompts = [
        one._encoder.tokenizer.decode(one._reader.read(QUERY, ["text"])[0].features["input_ids"])
        for one in (told, asked.engine)
    ]
    assert ["find code" in prompt for prompt in prompts] == [True, False]
    default = TEMPLATES[asked.template].instruction
    assert default is None or [default in prompt for prompt in prompts] == [False, True]


def test_a_prompt_without_room_is_refused(asked):
    with pytest.raises(ValueError, match=r"max_tokens must be at least \d+ with this prompt, not 30"):
        TorchEngine(ModelFiles(asked.folder), template=asked.template, max_tokens=30)


def test_a_tokenizer_without_the_answers_is_refused(tmp_path):
    folder = save_causal("qwen3", tmp_path)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["merges"] = [merge for merge in spec["model"]["merges"] if "".join(merge) != "yes"]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    refused(folder, "tokens of the answer 'yes', and the template reads the logit of one", template="qwen3")


# Templates as data.


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_where_it_is_from(name):
    assert TEMPLATES[name].source.startswith("https://")
    assert TEMPLATES[name].source.endswith("2026-11-23")


@pytest.mark.parametrize("name", TEMPLATES)
def test_slots_in_a_query_stay_what_they_are(name):
    filled = "".join(TEMPLATES[name].filled("{document}", "{query}"))
    assert filled.count("{document}") == filled.count("{query}") == 1
    assert "{instruct" not in filled


def test_the_default_instruction_may_be_none():
    assert TEMPLATES["mxbai-v2"].filled("q", "d")[1] == "query: q"
    assert TEMPLATES["mxbai-v2"].filled("q", "d", "i")[1] == "instruction: i\nquery: q"


@pytest.mark.parametrize(
    "pieces", [("{query}",), ("{query}", "{document} ends"), ("{document}",), ("{query}{query}{document}",)]
)
def test_a_template_that_cannot_be_cut_is_refused(pieces):
    with pytest.raises(ValueError, match="a template has one"):
        Template(pieces, "", None, "yes", None, 512, "")


def test_a_module_that_is_not_sentence_transformers_own_is_never_run(copied):
    folder = copied()
    modules = [{"idx": 0, "name": "0", "path": "", "type": "theirs.Evil"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    (folder / "theirs.py").write_text("raise SystemExit('it was run')")
    refused(folder, "wants to run a module 'theirs.Evil' of its own, and rerankx runs none")


def test_a_saved_cross_encoder_without_its_head_is_refused(classifiers, tmp_path):
    from safetensors.torch import load_file, save_file
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(classifiers["bert"])).save_pretrained(str(tmp_path))
    assert (tmp_path / "modules.json").is_file()
    TorchEngine(ModelFiles(tmp_path))
    weights = {
        name: value for name, value in load_file(tmp_path / "model.safetensors").items() if "classifier" not in name
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, "lack the weights of its 'classifier'")


def test_a_child_forked_during_a_run_is_not_held_up_by_it(classifiers):
    engine = TorchEngine(ModelFiles(classifiers["bert"]))
    with engine._lock:  # as another thread of the parent's holds it
        child = os.fork()
        if child == 0:
            os._exit(0 if engine._lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
