"""The last layer for the first token alone: an exact edit of a cross-encoder's ONNX graph.

A classification head reads one row of the last hidden states, that of [CLS] (or <s>); the others are computed in vain from the
last layer's queries on. The edit looks where the graph takes row 0 and moves that choice upwards through every operation that
treats rows one by one (`rows`), until it meets a tensor of which other rows are needed, too: the last layer's input, of which
keys and values are made. There a Slice goes in. So no exporter's way of writing a layer has to be known; an operation without a
rule ends the way up.

What the edited graph gives is compared with what the plain one gives before anybody scores with it (`prepare`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankx.engines.rows import choice, needs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

TOLERANCE = 1e-4
"""How far a logit of the edited graph may lie from the plain one's."""

# [batch, tokens] of the probes of which all tensors are looked at. No two dimensions agree in all of them by chance.
_PROBES = ((1, 5), (2, 8), (3, 11), (1, 97))


class CannotEdit(Exception):
    """The graph is none that this edit knows; the message says why."""


class Edited(NamedTuple):
    """What became of a graph."""

    model: ModelProto
    matmuls: int
    """How many matrix products have one row now."""
    probes: list[tuple[Mapping[str, NDArray[Any]], NDArray[np.float32]]]
    """Inputs, and the plain graph's logits for them."""


def first_row_only(path: Path, scratch: Path, *, longest: int = 512) -> Edited:
    """Return the graph in the file `path`, edited; not yet compared with it.

    Args:
        path: An ONNX file with its weights inside, below 2 GB: protobuf's limit.
        scratch: A folder for a copy of it that shows every tensor, removed when this returns.
        longest: Tokens of the longest probe: no more than the model takes.

    Raises:
        CannotEdit: It has no first row to choose, or no product that could be narrowed.
    """
    import onnx

    model = onnx.load(str(path))
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < 10:
        raise CannotEdit(f"it is written in operator set {opset}; the edit needs 10 or newer")
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise CannotEdit("it has branches or loops")
    seen = _observe(model, scratch / "observed.onnx", longest)
    _freeze(model.graph, seen)
    _drop_unused(model.graph)
    matmuls = _narrow(model.graph, seen)
    if not matmuls:
        raise CannotEdit("no matrix product serves the first row alone")
    del model.graph.value_info[:]  # shapes that hold no more
    return Edited(model, matmuls, seen.probes)


@dataclass(slots=True)
class _Seen:
    """What the tensors of a graph are, over the probes."""

    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    integers: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    """The values of small tensors of int64: what shapes are computed with."""
    probes: list[tuple[Mapping[str, NDArray[Any]], NDArray[np.float32]]] = field(default_factory=list)


def _observe(model: ModelProto, path: Path, longest: int) -> _Seen:
    """Run the graph on the probes and return what was seen of every tensor."""
    import onnx
    import onnxruntime as ort

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    wanted = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    own = {output.name for output in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in own)
    onnx.save(shown, str(path))
    del shown
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    finally:
        path.unlink()
    seen = _Seen()
    logits = session.get_outputs()[0].name
    inputs = {node.name: node.type for node in session.get_inputs()}
    for batch, tokens in _PROBES:
        feed = _probe(inputs, batch, min(tokens, longest))
        values = dict(zip(wanted, session.run(wanted, feed), strict=True))
        for initializer in model.graph.initializer:
            seen.shapes.setdefault(initializer.name, []).append(tuple(initializer.dims))
        for name, value in [*values.items(), *feed.items()]:
            if not isinstance(value, np.ndarray):
                raise CannotEdit("it has tensors of other kinds than arrays")
            seen.shapes.setdefault(name, []).append(value.shape)
            if value.dtype == np.int64 and value.ndim <= 1 and value.size <= 8 and name in values:
                seen.integers.setdefault(name, []).append(value)
        seen.probes.append((feed, values[logits]))
    # Compared only, not derived from: padded, and with both types of tokens where the model has two.
    feed = _probe(inputs, 2, min(33, longest), both_types=True)
    try:
        seen.probes.append((feed, session.run([logits], feed)[0]))
    except Exception:  # onnxruntime has a dozen kinds; a table of one type has no second
        feed = _probe(inputs, 2, min(33, longest))
        seen.probes.append((feed, session.run([logits], feed)[0]))
    feed = _probe(inputs, 1, longest)  # its shapes would be the large ones; what shapes are computed with is enough
    for name, value in zip([*seen.integers, logits], session.run([*seen.integers, logits], feed), strict=True):
        seen.integers.get(name, []).append(value)
    seen.probes.append((feed, value))
    return seen


def _probe(inputs: Mapping[str, str], batch: int, tokens: int, *, both_types: bool = False) -> dict[str, NDArray[Any]]:
    """Return inputs of that shape: token ids that every vocabulary has, the last token of the last text masked."""
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens) * 7 % 60 + 3
    mask = np.ones_like(ids)
    if batch > 1:
        mask[-1, -1] = 0
    types = np.zeros_like(ids)
    if both_types:
        types[:, tokens // 2 :] = 1
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if set(inputs) - set(known):
        raise CannotEdit(f"it has the inputs {', '.join(inputs)}")
    return {
        name: known[name].astype(np.int32 if kind == "tensor(int32)" else np.int64) for name, kind in inputs.items()
    }


def _freeze(graph: GraphProto, seen: _Seen) -> None:
    """Write computed shapes as constants, so that nobody asks a tensor for its length who could do without."""
    import onnx

    initializers = {initializer.name for initializer in graph.initializer}
    read = {given.name for given in graph.input}  # tensors that depend on what is read, and not only on how much
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and read.intersection(node.input):
            read.update(node.output)
    constant = {
        name
        for name, values in seen.integers.items()
        if name not in read and all(np.array_equal(value, values[0]) for value in values)
    }
    made_by = {name: node for node in graph.node for name in node.output}
    for name in constant - initializers:
        node = made_by.get(name)
        if node is not None and node.op_type != "Constant":
            node.output[list(node.output).index(name)] = f"{name}:computed"
            graph.initializer.append(onnx.numpy_helper.from_array(seen.integers[name][0], name))
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constant | initializers:
            continue
        target = _target(seen.shapes[node.input[0]], seen.shapes[node.output[0]])
        if target is not None:
            name = f"{node.output[0]}:shape"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(target, np.int64), name))
            node.input[1] = name
            for attribute in node.attribute:
                if attribute.name == "allowzero":
                    attribute.i = 0


def _target(given: Sequence[tuple[int, ...]], made: Sequence[tuple[int, ...]]) -> list[int] | None:
    """Return a Reshape's target that holds for every length: 0 copies a dimension, -1 is what remains; None if there is none."""
    target = []
    for axis, lengths in enumerate(zip(*made, strict=True)):
        if len(set(lengths)) == 1:
            target.append(lengths[0])
        elif all(axis < len(shape) and shape[axis] == length for shape, length in zip(given, lengths, strict=True)):
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _drop_unused(graph: GraphProto) -> None:
    """Remove the nodes and initializers that no output depends on."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [initializer for initializer in graph.initializer if initializer.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _narrow(graph: GraphProto, seen: _Seen) -> int:
    """Keep one row wherever only one is used; return how many matrix products that leaves with one."""
    constants = _constants(graph)
    wanted: dict[str, list[tuple[NodeProto, int, int]]] = defaultdict(list)  # tensor -> who needs row 0 of which axis
    whole = {output.name for output in graph.output}  # tensors of which somebody needs all
    slices: dict[str, list[tuple[NodeProto, int, int]]] = {}
    matmuls = 0
    for node in reversed(graph.node):
        asked = [wanted[name] for name in node.output if wanted[name]]
        axes = {axis for some in asked for _, _, axis in some}
        needs_of = None
        if len(axes) == 1 and len(asked) == len(node.output) and not whole.intersection(node.output):
            needs_of = needs(node, axes.pop(), seen.shapes, constants)
        if needs_of is None:
            for name in node.output:
                if wanted[name]:
                    slices[name] = wanted.pop(name)
            needs_of = choice(node, seen.shapes, constants)
        else:
            matmuls += node.op_type == "MatMul"
        for i, name in enumerate(node.input):
            axis = needs_of.get(i)
            if axis is None:
                whole.add(name)
            else:
                wanted[name].append((node, i, axis))
    made = {name for node in graph.node for name in node.output}
    slices |= {name: some for name, some in wanted.items() if name not in made}  # inputs of the graph
    if matmuls:
        _insert(graph, slices)
    return matmuls


def _constants(graph: GraphProto) -> dict[str, NDArray[np.int64]]:
    """Return the values of the small integer constants."""
    import onnx

    found = {
        initializer.name: onnx.numpy_helper.to_array(initializer)
        for initializer in graph.initializer
        if initializer.data_type == onnx.TensorProto.INT64 and len(initializer.dims) <= 1 and sum(initializer.dims) <= 8
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def _insert(graph: GraphProto, slices: Mapping[str, list[tuple[NodeProto, int, int]]]) -> None:
    """Put a Slice behind each of these tensors, for those who need one row of it."""
    import onnx

    behind = defaultdict(list)
    numbers = {"zero": 0, "one": 1}
    for name, users in slices.items():
        for axis in {axis for _, _, axis in users}:
            cut = f"{name}:row0:{axis}"
            numbers[f"axis{axis}"] = axis
            inputs = [name, "rerankx:zero", "rerankx:one", f"rerankx:axis{axis}"]
            behind[name].append(onnx.helper.make_node("Slice", inputs, [cut], name=cut))
            for node, i, wanted in users:
                if wanted == axis:
                    node.input[i] = cut
    for name, number in numbers.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([number], np.int64), f"rerankx:{name}"))
    nodes = [cut for given in graph.input for cut in behind[given.name]]
    for node in graph.node:
        nodes.append(node)
        nodes.extend(cut for name in node.output for cut in behind[name])
    nodes = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _copy(node: NodeProto) -> NodeProto:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
