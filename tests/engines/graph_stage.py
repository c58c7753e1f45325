"""Cross-encoders as ONNX files: a BERT written out operator by operator (no torch), and exports of real architectures."""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest

from rerankx.backends.embedded.lexical import DATA

onnx = pytest.importorskip("onnx", reason="needs the package onnx, by which the graphs of these tests are written")
helper, TensorProto = onnx.helper, onnx.TensorProto

VOCABULARY = 30522
LENGTHS = ((1, 2), (2, 3), (1, 17), (3, 33), (4, 64), (2, 128))
"""[batch, tokens] that graphs are compared on: other shapes than those of the edit's own probes."""


class Graph:
    """Collects nodes and constants; each method returns the name of the value that it adds."""

    def __init__(self, seed=0, opset=17):
        self.nodes, self.constants, self.opset = [], [], opset
        self.random = np.random.default_rng(seed)

    def constant(self, name, value):
        self.constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    def weight(self, name, *shape, spread=0.2):
        return self.constant(name, self.random.normal(0, spread, shape).astype(np.float32))

    def numbers(self, name, *values):
        return self.constant(name, np.array(values, np.int64))

    def scalar(self, name, value, kind=np.float32):
        return self.constant(name, np.array(value, kind))

    def add(self, op, name, *inputs, **attributes):
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, name, value, width_in, width_out, spread=0.2):
        weight = self.weight(f"{name}.weight", width_in, width_out, spread=spread)
        product = self.add("MatMul", f"{name}.product", value, weight)
        return self.add("Add", name, product, self.weight(f"{name}.bias", width_out))

    def layer_norm(self, name, value, width):
        gain = self.constant(f"{name}.gain", self.random.uniform(0.5, 1.5, width).astype(np.float32))
        bias = self.weight(f"{name}.bias", width)
        if self.opset >= 17:
            return self.add("LayerNormalization", name, value, gain, bias, axis=-1)
        mean = self.add("ReduceMean", f"{name}.mean", value, axes=[-1])
        centred = self.add("Sub", f"{name}.centred", value, mean)
        squares = self.add("Mul", f"{name}.squares", centred, centred)
        variance = self.add("ReduceMean", f"{name}.variance", squares, axes=[-1])
        safe = self.add("Add", f"{name}.safe", variance, self.scalar(f"{name}.epsilon", 1e-6))
        scaled = self.add("Div", f"{name}.scaled", centred, self.add("Sqrt", f"{name}.sqrt", safe))
        return self.add("Add", name, self.add("Mul", f"{name}.mul", scaled, gain), bias)

    def gelu(self, name, value):
        half, unit, root = (self.scalar(f"{name}.{key}", x) for key, x in (("half", 0.5), ("one", 1), ("root", 2**0.5)))
        erf = self.add("Erf", f"{name}.erf", self.add("Div", f"{name}.div", value, root))
        product = self.add("Mul", f"{name}.mul", value, self.add("Add", f"{name}.add", erf, unit))
        return self.add("Mul", name, product, half)

    def model(self, inputs, outputs):
        """Return the graph as a model; inputs and outputs are name -> (type, shape)."""
        infos = [
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in some.items()]
            for some in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "stage", *infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return model


def bert(
    *, seed=0, layers=2, width=32, heads=2, positions=512, labels=1, types=True, mask=True, int32=False, half=False,
    head="first", opset=17, more_output=False, window=None, focus=1.0,
):  # fmt: skip
    """Return a BERT with random weights.

    Its head reads the first token ("first", or "slice" for another way to say so; "flat" leaves one axis of logits), the
    "second", the first "two", their "mean", or "all". With a `window`, a token sees only so many to its left and right. With
    much `focus` a token looks at few others, and scores differ by much; with little all of them look at the mean of all.
    """
    g = Graph(seed, opset)
    kind, whole = (TensorProto.INT32 if int32 else TensorProto.INT64), ["batch", "tokens"]
    inputs = {"input_ids": (kind, whole)}
    words = g.add("Gather", "words", g.weight("word_table", VOCABULARY, width), "input_ids")
    zero, one, two = (g.numbers(f"n{n}", n) for n in (0, 1, 2))
    length = g.add("Slice", "length", g.add("Shape", "shape", "input_ids"), one, two, zero)
    table = g.weight("position_table", positions, width)
    hidden = g.add("Add", "placed", words, g.add("Slice", "positions", table, zero, length, zero))
    if types:
        inputs["token_type_ids"] = (kind, whole)
        hidden = g.add(
            "Add", "typed", hidden, g.add("Gather", "kinds", g.weight("type_table", 2, width), "token_type_ids")
        )
    bias = None
    if mask:
        inputs["attention_mask"] = (kind, whole)
        masked = g.add(
            "Sub", "masked", g.scalar("unit", 1.0), g.add("Cast", "real", "attention_mask", to=TensorProto.FLOAT)
        )
        flat = g.add("Mul", "penalty", masked, g.scalar("much", -10000.0))
        bias = g.add("Reshape", "mask_bias", flat, g.numbers("mask_shape", 0, 1, 1, -1))
    if window is not None:
        far = np.abs(np.arange(positions)[:, None] - np.arange(positions)) > window
        rows = g.add("Slice", "far_rows", g.constant("far", -10000 * far.astype(np.float32)), zero, length, zero)
        bias = g.add("Add", "window_bias", bias, g.add("Slice", "far_both", rows, zero, length, one))
    hidden = g.layer_norm("embedded", hidden, width)
    for i in range(layers):
        hidden = _layer(g, f"layer{i}", hidden, bias, width, heads, focus)
    logits = _head(g, head, hidden, width, labels)
    outputs = {"logits": (TensorProto.FLOAT, ["batch", labels])}
    if head == "all":
        outputs = {"logits": (TensorProto.FLOAT, [*whole, labels])}
    if head == "flat":
        outputs = {"logits": (TensorProto.FLOAT, ["pairs"])}
    if half:
        g.add("Cast", "half_logits", logits, to=TensorProto.FLOAT16)
        outputs = {"half_logits": (TensorProto.FLOAT16, ["batch", labels])}
    if more_output:
        outputs[hidden] = (TensorProto.FLOAT, [*whole, width])
    return g.model(inputs, outputs)


def _layer(g, name, hidden, bias, width, heads, focus):
    size = width // heads
    shape = g.numbers(f"{name}.heads", 0, 0, heads, size)
    parts = {}
    for part, turn, spread in (
        ("query", [0, 2, 1, 3], focus),
        ("key", [0, 2, 3, 1], focus),
        ("value", [0, 2, 1, 3], 0.3),
    ):
        seen = g.linear(f"{name}.{part}", hidden, width, width, spread)
        split = g.add("Reshape", f"{name}.{part}.split", seen, shape)
        parts[part] = g.add("Transpose", f"{name}.{part}.turned", split, perm=turn)
    products = g.add("MatMul", f"{name}.products", parts["query"], parts["key"])
    logits = g.add("Div", f"{name}.scaled", products, g.scalar(f"{name}.scale", size**0.5))
    if bias is not None:
        logits = g.add("Add", f"{name}.biased", logits, bias)
    share = g.add("Softmax", f"{name}.share", logits, axis=-1 if g.opset >= 13 else 3)
    mixed = g.add(
        "Transpose", f"{name}.mixed", g.add("MatMul", f"{name}.context", share, parts["value"]), perm=[0, 2, 1, 3]
    )
    joined = g.add("Reshape", f"{name}.joined", mixed, g.numbers(f"{name}.width", 0, 0, width))
    attended = g.add("Add", f"{name}.residual1", g.linear(f"{name}.attended", joined, width, width), hidden)
    hidden = g.layer_norm(f"{name}.norm1", attended, width)
    inner = g.gelu(f"{name}.gelu", g.linear(f"{name}.inner", hidden, width, 2 * width))
    outer = g.add("Add", f"{name}.residual2", g.linear(f"{name}.outer", inner, 2 * width, width), hidden)
    return g.layer_norm(f"{name}.norm2", outer, width)


def _head(g, head, hidden, width, labels):
    if head == "mean":
        pooled = g.add("ReduceMean", "pooled", hidden, axes=[1], keepdims=0)
    elif head == "all":
        pooled = hidden
    elif head in ("slice", "two"):
        cut = (0, 1 if head == "slice" else 2, 1)
        row = g.add("Slice", "row", hidden, *(g.numbers(f"row.{n}{i}", n) for i, n in enumerate(cut)))
        pooled = g.add("Reshape", "pooled", row, g.numbers("pooled.shape", -1, width))
    else:
        pooled = g.add("Gather", "pooled", hidden, g.scalar("which", int(head == "second"), np.int64), axis=1)
    dense = g.add("Tanh", "pooler", g.linear("pooler.dense", pooled, width, width))
    classifier = g.weight("classifier", width, labels, spread=0.6)
    if head == "flat":
        return g.add("Reshape", "logits", g.add("MatMul", "rows", dense, classifier), g.numbers("flat", -1))
    return g.add("MatMul", "logits", dense, classifier)


def save_graph(model, folder, name="model.onnx"):
    """Save it and return the path."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def save_model(folder, *, config=None, tokenizer=True, name="model.onnx", **options):
    """Save a whole cross-encoder: `bert`, the embedded model's tokenizer, a configuration; return the folder."""
    folder = Path(folder)
    save_graph(bert(**options), folder, name)
    if tokenizer:
        copyfile(DATA / "tokenizer.json", folder / "tokenizer.json")
    base = {
        "model_type": "bert",
        "max_position_embeddings": options.get("positions", 512),
        "id2label": {"0": "LABEL_0"},
    }
    (folder / "config.json").write_text(json.dumps(base | (config or {})))
    return folder


def save_outside(model, path):
    """Save a graph with its weights in a file beside it."""
    onnx.save_model(
        model, str(path), save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024,
    )  # fmt: skip
    return path


def feeds(names, lengths=LENGTHS, *, vocabulary=100):
    """Yield inputs of those shapes, with padding at the end of every text but the first, and two token types."""
    random = np.random.default_rng(7)
    for batch, tokens in lengths:
        ids = random.integers(3, vocabulary, (batch, tokens))
        real = np.linspace(tokens, max(1, tokens // 2), batch).astype(int)
        mask = (np.arange(tokens) < real[:, None]).astype(np.int64)
        types = (np.arange(tokens) >= tokens // 2).astype(np.int64) * mask
        known = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}
        yield {name: known[name] for name in names}


def outputs_of(path, lengths=LENGTHS):
    """Return what the graph in the file gives for `feeds`."""
    from rerankx.engines.prepare import session_of

    session = session_of(path)
    kinds = {node.name: np.int32 if "int32" in node.type else np.int64 for node in session.get_inputs()}
    given = ({name: rows.astype(kinds[name]) for name, rows in feed.items()} for feed in feeds(kinds, lengths))
    return [session.run(None, feed) for feed in given]


def logits_of(path, given):
    """Return the first output of the graph in the file, for each of these inputs, of which it takes those that it has."""
    from rerankx.engines.prepare import session_of

    session = session_of(path)
    kinds = {node.name: np.int32 if "int32" in node.type else np.int64 for node in session.get_inputs()}
    return [session.run(None, {name: feed[name].astype(kind) for name, kind in kinds.items()})[0] for feed in given]


def difference(path, other, lengths=LENGTHS):
    """Return the largest difference of what two graphs give, which has the same shapes."""
    largest = 0.0
    for these, those in zip(outputs_of(path, lengths), outputs_of(other, lengths), strict=True):
        for a, b in zip(these, those, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            largest = max(largest, float(np.abs(a.astype(np.float64) - b).max()))
            assert not np.isnan(a).any()
    return largest


def rows_of_products(path, tokens=19):
    """Return how many rows each matrix product over tokens has, when the graph reads one text of so many tokens."""
    import onnxruntime as ort

    model = onnx.load(str(path))
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMul"]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in products if name not in known)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (feed,) = feeds([node.name for node in session.get_inputs()], [(1, tokens)])
    return [value.shape[-2] for value in session.run(products, feed) if value.ndim > 2]


@contextmanager
def without(package):
    """Within, the package is not installed, and not imported either."""
    import importlib.util
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def nowhere(name, *rest):
        return None if name == package else found(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
        found = importlib.util.find_spec
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("rerankx.") and getattr(module, "find_spec", None) is found:
                patch.setattr(module, "find_spec", nowhere)
        yield


FAMILIES = ("bert", "xlm-roberta", "electra", "modernbert", "deberta-v2")


def family(kind, *, seed=0):
    """Return a sequence classifier of transformers' with random weights, and whether it has token types."""
    import torch
    import transformers as hf

    size = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "num_labels": 1, "initializer_range": 0.2,
    }  # fmt: skip
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    more = {
        "xlm-roberta": {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
        "electra": {"embedding_size": 16},
        "modernbert": {"classifier_pooling": "cls", "max_position_embeddings": 512, "local_attention": 32, **ids},
        "deberta-v2": {
            "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
            "pooler_hidden_size": 32, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
        },
    }  # fmt: skip
    torch.manual_seed(seed)
    model = hf.AutoModelForSequenceClassification.from_config(
        hf.AutoConfig.for_model(kind, **size, **more.get(kind, {}))
    )
    return model.eval(), kind in ("bert", "electra")


def export(model, path, *, types, dynamo=False, attention="sdpa"):
    """Export the model as torch does, by tracing or by torch.export (`dynamo`); return the path."""
    import torch

    model.eval().config._attn_implementation = attention
    shape = (2, 12)
    given = {"input_ids": torch.randint(3, 100, shape), "attention_mask": torch.ones(shape, dtype=torch.long)}
    if types:
        given["token_type_ids"] = torch.zeros(shape, dtype=torch.long)

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, *rows):
            return self.inner(**dict(zip(given, rows, strict=True)))[0]

    how = {"input_names": list(given), "output_names": ["logits"], "dynamo": dynamo}
    if dynamo:
        axes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=512)}
        how |= {"dynamic_shapes": (tuple(axes for _ in given),), "external_data": False, "verbose": False}
    else:
        axes = {name: {0: "batch", 1: "tokens"} for name in given}
        how |= {"dynamic_axes": {**axes, "logits": {0: "batch"}}, "opset_version": 17}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Bare(), tuple(given.values()), str(path), **how)
    return Path(path)


def installed(*packages):
    """Return whether all of these are."""
    from importlib.util import find_spec

    return all(find_spec(package) is not None for package in packages)


needs_torch = pytest.mark.skipif(
    not installed("torch", "transformers", "onnxscript", "sentence_transformers"),
    reason="needs torch, transformers, sentence-transformers and onnxscript: the real architectures and exporters",
)
