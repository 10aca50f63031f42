"""ONNX graphs written node by node."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .stages import STAGE

OPSET = 18


class Builder:
    """Collects nodes: ``g("Add", x, 1.0)`` is the name of the sum. What is no name becomes a constant."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        given = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, given, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        array = np.array(value, order="C")
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def stage(self, name: str, value: str) -> str:
        """``value`` under a name by which a comparison finds it."""
        self.nodes.append(helper.make_node("Identity", [value], [STAGE + name]))
        return STAGE + name

    def double(self, value: Any) -> Any:
        """A name, or a number that float32 holds, as float64."""
        return self("Cast", value if isinstance(value, str) else float(value), to=TensorProto.DOUBLE)

    def model(
        self,
        outputs: Mapping[str, str],
        shapes: Mapping[str, list[Any]],
        ir_version: int,
        inputs: Mapping[str, list[Any]] | None = None,
    ) -> onnx.ModelProto:
        """``image`` uint8 ``[1, H, W, 3]``, or float32 ``inputs`` -> float32 ``outputs``, by their names."""
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])
        given = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (inputs or {}).items()
        ]
        nodes = [helper.make_node("Identity", [found], [name]) for name, found in outputs.items()]
        graph = helper.make_graph(
            [*self.nodes, *nodes],
            "from_image",
            given or [image],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version)
