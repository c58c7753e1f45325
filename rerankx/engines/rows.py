"""Which row of its inputs an ONNX operation needs to give one row of its output: what `graph` moves a choice of row 0 up by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Per tensor its shapes over several runs of different lengths."""
Constants = Mapping[str, NDArray[np.int64]]
"""The values of small constants."""
Needs = dict[int, int | None]
"""Per input the axis of which row 0 is needed; None, or no entry = all of it is."""

# fmt: off
_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Div", "Dropout", "Elu", "Equal",
    "Erf", "Exp", "FastGelu", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not",
    "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub",
    "Tanh", "Where", "Xor",
})
# fmt: on


def needs(node: NodeProto, axis: int, shapes: Shapes, constants: Constants) -> Needs | None:
    """Return what the node needs to give row 0 of `axis` alone; None where no rule says so."""
    rule = _elementwise if node.op_type in _ELEMENTWISE else _RULES.get(node.op_type)
    return None if rule is None else rule(node, axis, shapes, constants)


def choice(node: NodeProto, shapes: Shapes, constants: Constants) -> Needs:
    """Return {0: axis} where the node takes row 0 of its first input along that axis, else {}."""
    rank = len(shapes[node.input[0]][0]) if node.input and node.input[0] in shapes else 0
    if node.op_type == "Gather" and node.input[1] in constants and not np.any(constants[node.input[1]]):
        return {0: _attribute(node, "axis", 0) % rank} if rank > 2 else {}
    if (
        node.op_type == "Slice"
        and rank > 2
        and len(node.input) >= 4
        and all(n in constants for n in node.input[1:] if n)
    ):
        starts, ends, axes = (constants[name].reshape(-1).tolist() for name in node.input[1:4])
        if (starts, ends) == ([0], [1]):
            return {0: axes[0] % rank}
    return {}


def _elementwise(node: NodeProto, axis: int, shapes: Shapes, _: object) -> Needs | None:
    rank = len(shapes[node.output[0]][0])
    found: Needs = {}
    for i, name in enumerate(node.input):
        if not name:
            continue
        given = shapes[name]
        own = axis - (rank - len(given[0]))
        found[i] = None if own < 0 or all(shape[own] == 1 for shape in given) else own
    return found


def _along_others(node: NodeProto, axis: int, shapes: Shapes, constants: Constants) -> Needs | None:
    """Operations along axes of their own: rows are independent unless theirs is among them."""
    rank = len(shapes[node.output[0]][0])
    if node.op_type == "LayerNormalization":
        return {0: axis} if _attribute(node, "axis", -1) % rank > axis else None
    if node.op_type == "Softmax":
        return {0: axis} if _attribute(node, "axis", -1) % rank != axis else None
    if node.op_type == "Split":
        return {0: axis} if _attribute(node, "axis", 0) % rank != axis else None
    if node.op_type == "Concat":
        return dict.fromkeys(range(len(node.input)), axis) if _attribute(node, "axis", 0) % rank != axis else None
    if node.op_type == "Slice":
        axes = constants.get(node.input[3]) if len(node.input) > 3 else None
        return {0: axis} if axes is not None and axis not in axes % rank else None
    axes = constants.get(node.input[1]) if len(node.input) > 1 else np.array(_attribute(node, "axes", []))
    kept = _attribute(node, "keepdims", 1) == 1
    return {0: axis} if kept and axes is not None and axes.size and axis not in axes % rank else None


def _matmul(node: NodeProto, axis: int, shapes: Shapes, _: object) -> Needs | None:
    rank, given = (len(shapes[name][0]) for name in (node.output[0], node.input[0]))
    return {0: given - 2, 1: None} if axis == rank - 2 and given > 1 else None


def _transpose(node: NodeProto, axis: int, shapes: Shapes, _: object) -> Needs | None:
    rank = len(shapes[node.output[0]][0])
    return {0: _attribute(node, "perm", list(range(rank))[::-1])[axis]}


def _reshape(node: NodeProto, axis: int, shapes: Shapes, constants: Constants) -> Needs | None:
    target = constants.get(node.input[1])
    if target is None or target[axis] > 0:
        return None
    given, made = shapes[node.input[0]], shapes[node.output[0]]
    for own in range(len(given[0])):
        alike = all(
            (np.prod(g[:own]), g[own]) == (np.prod(m[:axis]), m[axis]) for g, m in zip(given, made, strict=True)
        )
        if alike and (target[axis] == -1 or own == axis):
            return {0: own, 1: None}
    return None


def _unsqueeze(node: NodeProto, axis: int, shapes: Shapes, constants: Constants) -> Needs | None:
    axes = constants.get(node.input[1]) if len(node.input) > 1 else np.array(_attribute(node, "axes", []))
    if axes is None:
        return None
    new = axes % len(shapes[node.output[0]][0])
    return None if axis in new else {0: axis - int((new < axis).sum())}


_Rule = Callable[["NodeProto", int, Shapes, Constants], Needs | None]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(
        ("LayerNormalization", "Softmax", "Concat", "Slice", "Split", "ReduceMean", "ReduceSum"), _along_others
    ),
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
}


def _attribute(node: NodeProto, name: str, default: object) -> Any:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
