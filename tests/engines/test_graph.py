"""The last layer for the first token alone: the edited graph gives the plain one's logits, or there is none."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the package onnx, which edits graphs")

import onnx
from graph_stage import (
    FAMILIES,
    Graph,
    TensorProto,
    bert,
    difference,
    export,
    family,
    helper,
    needs_torch,
    rows_of_products,
    save_graph,
    save_outside,
)

from rerankx.engines import rows
from rerankx.engines.graph import CannotEdit, first_row_only
from rerankx.engines.prepare import prepare

# The products of a layer that only its first row is needed of: query, scores, context, and three after the attention.
OF_A_LAYER = 6


def edited(path, tmp_path):
    """Return the path of the edited graph."""
    prepared = prepare(path, precision="fp32", cache_dir=str(tmp_path / "cache"))
    assert prepared.layers.startswith("first row"), prepared.layers
    return prepared.path


def reason(path, tmp_path):
    """Return why the plain graph is run."""
    prepared = prepare(path, precision="fp32", cache_dir=str(tmp_path / "cache"))
    assert prepared.path == path
    assert prepared.layers.startswith("all rows: ")
    return prepared.layers.removeprefix("all rows: ")


VARIANTS = {
    "usual": {},
    "one-layer": {"layers": 1},
    "three-layers": {"layers": 3},
    "four-heads": {"heads": 4},
    "no-types": {"types": False},
    "no-mask": {"mask": False},
    "ids-alone": {"mask": False, "types": False},
    "sliding-window": {"window": 4},
    "sliced-row": {"head": "slice"},
    "half-precision-logits": {"half": True},
    "three-labels": {"labels": 3},
    "flat-logits": {"head": "flat"},
    "opset-10": {"opset": 10},
    "opset-12": {"opset": 12},
    "opset-13": {"opset": 13},
    "opset-20": {"opset": 20},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_an_edited_graph_gives_the_logits_of_the_plain_one(options, tmp_path):
    path = save_graph(bert(**options), tmp_path)
    assert difference(path, edited(path, tmp_path)) < 1e-5


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_an_edited_graph_computes_one_row_of_its_last_layer(options, tmp_path):
    path = save_graph(bert(**options), tmp_path)
    plain, narrow = rows_of_products(path), rows_of_products(edited(path, tmp_path))
    assert plain.count(1) == 0
    assert narrow.count(1) == OF_A_LAYER
    assert len(narrow) == len(plain)


@pytest.mark.parametrize(("layers", "where"), [(1, "embedded"), (3, "layer1.norm2")])
def test_the_row_is_cut_from_the_last_layers_input_and_nowhere_else(layers, where, tmp_path):
    made = first_row_only(save_graph(bert(layers=layers), tmp_path), tmp_path)
    plain = {node.output[0] for node in bert(layers=layers).graph.node}
    cuts = [node for node in made.model.graph.node if node.output[0] not in plain]
    assert [(cut.op_type, cut.input[0]) for cut in cuts] == [("Slice", where)]
    assert made.matmuls == OF_A_LAYER


@needs_torch
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(
    ("dynamo", "attention"),
    [(False, "sdpa"), (False, "eager"), pytest.param(True, "sdpa", marks=pytest.mark.slow)],
    ids=["traced", "traced-eager", "dynamo"],
)
def test_an_exported_model_is_edited_and_gives_the_same_logits(kind, dynamo, attention, tmp_path):
    model, types = family(kind)
    path = export(model, tmp_path / "model.onnx", types=types, dynamo=dynamo, attention=attention)
    narrow = edited(path, tmp_path)
    assert difference(path, narrow) < 1e-5
    assert rows_of_products(path).count(1) == 0
    # ModernBERT makes queries, keys and values in one product; the way up ends behind DeBERTa's attention.
    expected = {"modernbert": OF_A_LAYER - 1, "deberta-v2": OF_A_LAYER - 3}.get(kind, OF_A_LAYER)
    assert rows_of_products(narrow).count(1) == expected


@needs_torch
def test_an_exported_model_that_takes_the_mean_is_left_as_it_is(tmp_path):
    model, types = family("modernbert")
    model.config.classifier_pooling = "mean"
    path = export(model, tmp_path / "model.onnx", types=types)
    assert "no matrix product serves the first row alone" in reason(path, tmp_path)


def test_weights_that_are_listed_as_inputs_are_weights_all_the_same(tmp_path):
    model = bert()
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    path = save_graph(model, tmp_path)
    assert difference(path, edited(path, tmp_path)) < 1e-5


def test_the_models_own_file_stays_as_it_is(tmp_path):
    path = save_graph(bert(), tmp_path / "model")
    before = path.read_bytes()
    edited(path, tmp_path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["model.onnx"]


# What cannot be edited


@pytest.mark.parametrize(
    "options",
    [{"head": "mean"}, {"head": "all"}, {"head": "second"}, {"head": "two"}, {"more_output": True}],
    ids=lambda some: str(some),
)
def test_a_head_that_reads_more_than_the_first_row_is_left_as_it_is(options, tmp_path):
    path = save_graph(bert(**options), tmp_path)
    assert reason(path, tmp_path) == "no matrix product serves the first row alone"


def test_an_old_operator_set_is_named(tmp_path):
    model = bert(opset=10)
    model.opset_import[0].version = 9
    with pytest.raises(CannotEdit, match="operator set 9; the edit needs 10"):
        first_row_only(save_graph(model, tmp_path), tmp_path)


def branch(name, value):
    node = helper.make_node("Mul", ["logits.plain", value], [name])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


def renamed_output(model):
    """Let the graph's last node give "logits.plain", for another one to make the logits of."""
    model.graph.node[-1].output[0] = "logits.plain"
    return model


def test_branches_are_left_as_they_are(tmp_path):
    model = renamed_output(bert())
    for name, value in (("yes", True), ("no", False)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    for name, value in (("one", 1), ("half", 0.5)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    both = {"then_branch": branch("then", "one"), "else_branch": branch("else", "half")}
    model.graph.node.append(helper.make_node("If", ["yes"], ["logits"], **both))
    assert reason(save_graph(model, tmp_path), tmp_path) == "it has branches or loops"


def test_loops_are_left_as_they_are(tmp_path):
    model = renamed_output(bert())
    infos = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("so_far", TensorProto.FLOAT, None),
            ("go_on", TensorProto.BOOL, []), ("sum", TensorProto.FLOAT, None),
        )
    ]  # fmt: skip
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["so_far", "so_far"], ["sum"])]
    body = helper.make_graph(nodes, "body", infos[:3], infos[3:])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.int64), "times"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("Loop", ["times", "yes", "logits.plain"], ["logits"], body=body))
    assert reason(save_graph(model, tmp_path), tmp_path) == "it has branches or loops"


def test_inputs_that_it_does_not_know_are_named(tmp_path):
    model = renamed_output(bert())
    model.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1]))
    model.graph.node.append(helper.make_node("Mul", ["logits.plain", "temperature"], ["logits"]))
    assert "temperature" in reason(save_graph(model, tmp_path), tmp_path)


def test_weights_in_another_file_leave_the_graph_as_it_is(tmp_path):
    path = save_outside(bert(), tmp_path / "model.onnx")
    assert reason(path, tmp_path) == "its weights lie outside of the file"


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08"], ids=["empty", "text", "cut"])
def test_what_is_no_graph_is_left_to_who_loads_it(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert reason(path, tmp_path)


# No graph that is wrong


def mixing(op, **attributes):
    """Return a BERT whose rows see each other once more after the last layer, by that operation along the tokens."""
    model = bert()
    (head,) = (node for node in model.graph.node if node.name == "pooled")
    at = list(model.graph.node).index(head)
    inputs = [head.input[0]]
    if op == "CumSum":
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int64), "along"))
        inputs.append("along")
    head.input[0] = "mixed"
    model.graph.node.insert(at, helper.make_node(op, inputs, ["mixed"], **attributes))
    return model


MIXED = {
    "cumsum": ("CumSum", {"reverse": 1}),
    "softmax": ("Softmax", {"axis": 1}),
    "norm": ("LpNormalization", {"axis": 1}),
}


@pytest.mark.parametrize(("op", "attributes"), MIXED.values(), ids=MIXED)
def test_rows_that_see_each_other_after_the_last_layer_are_all_computed(op, attributes, tmp_path):
    path = save_graph(mixing(op, **attributes), tmp_path)
    assert reason(path, tmp_path) == "no matrix product serves the first row alone"


@pytest.mark.parametrize(("op", "attributes"), MIXED.values(), ids=MIXED)
def test_a_rule_that_takes_them_for_independent_is_caught_by_the_comparison(op, attributes, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_RULES", {**rows._RULES, op: lambda node, axis, shapes, constants: {0: axis}})
    path = save_graph(mixing(op, **attributes), tmp_path)
    assert "its logits differ by" in reason(path, tmp_path)


WRONG = {
    "all-inputs": lambda found, node, axis: dict.fromkeys(range(len(node.input)), axis),
    "axis-before": lambda found, node, axis: {i: None if own is None else own - 1 for i, own in found.items()},
    "axis-behind": lambda found, node, axis: {i: None if own is None else own + 1 for i, own in found.items()},
    "first-axis": lambda found, node, axis: dict.fromkeys(found, 0),
    "none-narrowed": lambda found, node, axis: {},
}


@pytest.mark.parametrize("op", [*rows._RULES, "Add", "Tanh", "Mul"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_whatever_a_rule_says_the_graph_that_is_run_is_right(op, wrong, tmp_path, monkeypatch):
    real = rows.needs

    def mistaken(node, axis, shapes, constants):
        found = real(node, axis, shapes, constants)
        return found if found is None or node.op_type != op else wrong(found, node, axis)

    monkeypatch.setattr("rerankx.engines.graph.needs", mistaken)
    path = save_graph(bert(layers=1, window=3), tmp_path)
    run = prepare(path, precision="fp32", cache_dir=str(tmp_path / "cache")).path
    assert difference(path, run, [(2, 7), (1, 33)]) < 1e-4


def test_what_depends_on_token_types_is_no_constant(tmp_path):
    model = renamed_output(bert())
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["token_type_ids"], ["highest"], keepdims=0),
            helper.make_node("Cast", ["highest"], ["bonus"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["logits.plain", "bonus"], ["logits"]),
        ]
    )
    path = save_graph(model, tmp_path)
    run = prepare(path, precision="fp32", cache_dir=str(tmp_path / "cache")).path
    assert difference(path, run) < 1e-4


def test_what_changes_with_long_texts_is_no_constant(tmp_path):
    model = renamed_output(bert())  # as where texts are padded to a block of 100 tokens, and to more if they are longer
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([100], np.int64), "block"))
    model.graph.node.extend(
        [
            helper.make_node("Max", ["length", "block"], ["padded"]),
            helper.make_node("Cast", ["padded"], ["bonus"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["logits.plain", "bonus"], ["logits"]),
        ]
    )
    path = save_graph(model, tmp_path)
    run = prepare(path, precision="fp32", cache_dir=str(tmp_path / "cache")).path
    assert difference(path, run) < 1e-4


class Answers:
    """A session that gives what it is told to, call by call."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, _names, _feed):
        return [self.answers.pop(0)]


def compared(monkeypatch, tmp_path, change):
    """Return why the plain graph is run, where the edited one's answers to the probes are those of the plain one, changed."""
    path = save_graph(bert(), tmp_path)
    right = [logits for _, logits in first_row_only(path, tmp_path).probes]
    monkeypatch.setattr("rerankx.engines.prepare.session_of", lambda path: Answers(*change(right)))
    return reason(path, tmp_path)


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_no_number_is_no_equality(which, monkeypatch, tmp_path):
    def change(right):
        right[which] = np.full_like(right[which], np.nan)
        return right

    assert "differ" in compared(monkeypatch, tmp_path, change)


def test_another_shape_is_no_equality(monkeypatch, tmp_path):
    def change(right):
        return [one if len(one) > 1 else one[0] for one in right]

    assert compared(monkeypatch, tmp_path, change)


@pytest.mark.parametrize("which", range(4))
def test_one_probe_that_differs_is_enough(which, monkeypatch, tmp_path):
    def change(right):
        right[which] = right[which] + np.float32(2e-4)
        return right

    assert "its logits differ by 0.0002" in compared(monkeypatch, tmp_path, change)


def test_a_graph_without_any_row_choice_may_be_of_any_kind(tmp_path):
    g = Graph()
    table = g.weight("table", 100, 1)
    g.add("ReduceMean", "logits", g.add("Gather", "words", table, "input_ids"), axes=[1], keepdims=0)
    kinds = {"input_ids": (TensorProto.INT64, ["batch", "tokens"])}
    path = save_graph(g.model(kinds, {"logits": (TensorProto.FLOAT, ["batch", 1])}), tmp_path)
    assert reason(path, tmp_path) == "no matrix product serves the first row alone"
