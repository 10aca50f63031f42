"""A SavedModel run through TensorFlow's C interface.

``import tensorflow`` takes some seconds, and ``tf.saved_model.load`` of what TFOD exports most of a minute; the library
inside the package loads the same file in a fraction of that, without either.
"""

import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResightError
from ..tfod.checkpoint.reader import KINDS, STRING

FIX = "pip install 'resight[tensorflow]'"
SIGNATURE = "serving_default"
# A ConfigProto: graph_options (field 10), rewrite_options (10), disable_meta_optimizer (19) = true. What it rewrites
# takes half a second of a cold start, and a run is no faster for it.
CONFIG = b"\x52\x05\x52\x03\x98\x01\x01"
STRING_SIZE = 24  # bytes of a string's place in a tensor
LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ASKED_FOR = LEVEL in os.environ


class _Buffer(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("length", c_size_t), ("free", c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


_STRINGS, _OUTPUTS, _TENSORS, _BUFFER = POINTER(c_char_p), POINTER(_Output), POINTER(c_void_p), POINTER(_Buffer)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # result, arguments
    "NewStatus": (c_void_p,),
    "GetCode": (c_int, c_void_p),
    "Message": (c_char_p, c_void_p),
    "NewGraph": (c_void_p,),
    "NewSessionOptions": (c_void_p,),
    "SetConfig": (None, c_void_p, c_char_p, c_size_t, c_void_p),
    "NewBuffer": (_BUFFER,),
    "DeleteBuffer": (None, _BUFFER),
    "LoadSessionFromSavedModel": (
        c_void_p, c_void_p, _BUFFER, c_char_p, _STRINGS, c_int, c_void_p, _BUFFER, c_void_p,
    ),
    "GraphOperationByName": (c_void_p, c_void_p, c_char_p),
    "AllocateTensor": (c_void_p, c_int, POINTER(c_int64), c_int, c_size_t),
    "TensorType": (c_int, c_void_p),
    "NumDims": (c_int, c_void_p),
    "Dim": (c_int64, c_void_p, c_int),
    "TensorData": (c_void_p, c_void_p),
    "TensorByteSize": (c_size_t, c_void_p),
    "DeleteTensor": (None, c_void_p),
    "StringInit": (None, c_void_p),
    "StringCopy": (None, c_void_p, c_char_p, c_size_t),
    "SessionRun": (
        None, c_void_p, _BUFFER, _OUTPUTS, _TENSORS, c_int, _OUTPUTS, _TENSORS, c_int, c_void_p, c_int, _BUFFER,
        c_void_p,
    ),
}  # fmt: skip


@functools.cache
def _library() -> Any:
    """
    Raises:
        ResightError: TensorFlow is not installed, or its library is not where it is expected.
    """
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise ResightError("a SavedModel needs TensorFlow", fix=FIX)
    folder = Path(spec.origin).parent
    # Not to all libraries' view: torchvision brings some of the same ones, and mixed up they end the process.
    try:
        with quiet():
            library = ctypes.CDLL(str(next(folder.glob("libtensorflow_cc.*"))))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(library, f"TF_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, StopIteration, AttributeError) as error:
        raise ResightError(f"TensorFlow's library cannot be used: {error}", where=folder, fix=FIX) from error
    return library


@contextmanager
def quiet() -> Iterator[None]:
    """TensorFlow tells stderr about its options while it is being loaded, whatever its level of logging; here it does
    so only where the environment sets that level."""
    if _ASKED_FOR:
        yield
        return
    os.environ[LEVEL] = "2"  # read once, at the loading
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(null)
        os.close(stderr)


class Session:
    """The function ``serving_default`` of a SavedModel, loaded for the life of the process.

    ``inputs`` and ``outputs`` are the signature's: name -> ``TensorInfo``. All sessions of a process
    share the ``threads`` of the first.

    Raises:
        ResightError: TensorFlow is missing, or cannot load the model, or it has no such signature.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        from tensorboard.compat.proto.config_pb2 import ConfigProto
        from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

        self.library, self.folder = _library(), folder
        self.status = self.library.TF_NewStatus()
        graph, meta = self.library.TF_NewGraph(), self.library.TF_NewBuffer()
        options = self.library.TF_NewSessionOptions()
        counts = ConfigProto(intra_op_parallelism_threads=threads or 0, inter_op_parallelism_threads=threads or 0)
        config = CONFIG + counts.SerializeToString()
        self.library.TF_SetConfig(options, config, len(config), self.status)
        self.session = self.library.TF_LoadSessionFromSavedModel(
            options, None, os.fsencode(folder), (c_char_p * 1)(b"serve"), 1, graph, meta, self.status
        )
        self._check("cannot be loaded")
        signatures = MetaGraphDef.FromString(ctypes.string_at(meta[0].data, meta[0].length)).signature_def
        self.library.TF_DeleteBuffer(meta)
        if SIGNATURE not in signatures:
            raise ResightError(f"has no signature '{SIGNATURE}'", where=folder)
        self.inputs, self.outputs = dict(signatures[SIGNATURE].inputs), dict(signatures[SIGNATURE].outputs)
        self.places = {
            name: self._place(graph, info.name) for name, info in (*self.inputs.items(), *self.outputs.items())
        }

    def run(self, name: str, value: np.ndarray | bytes) -> dict[str, np.ndarray]:
        """All outputs by name for one input: an array, or bytes for a tensor of one string."""
        library, count = self.library, len(self.outputs)
        fetches = (_Output * count)(*(self.places[output] for output in self.outputs))
        results = (c_void_p * count)()
        given = self._tensor(value)
        try:
            library.TF_SessionRun(
                self.session, None, (_Output * 1)(self.places[name]), (c_void_p * 1)(given), 1, fetches, results, count,
                None, 0, None, self.status,
            )  # fmt: skip
        finally:
            library.TF_DeleteTensor(given)
        self._check("failed")
        arrays = [self._array(result) for result in results]
        for result in results:
            library.TF_DeleteTensor(result)
        return dict(zip(self.outputs, arrays, strict=True))

    def _check(self, what: str) -> None:
        if self.library.TF_GetCode(self.status):
            message = self.library.TF_Message(self.status).decode(errors="replace")
            message = re.sub(r"\{\{.*?\}\}", "", message).strip()  # where in its graph
            raise ResightError(f"{what}: {(message.splitlines() or ['unknown error'])[0]}", where=self.folder)

    def _place(self, graph: Any, tensor: str) -> _Output:
        operation, _, index = tensor.partition(":")
        return _Output(self.library.TF_GraphOperationByName(graph, operation.encode()), int(index or 0))

    def _tensor(self, value: np.ndarray | bytes) -> Any:
        if isinstance(value, bytes):
            tensor = self.library.TF_AllocateTensor(STRING, (c_int64 * 1)(1), 1, STRING_SIZE)
            place = self.library.TF_TensorData(tensor)
            self.library.TF_StringInit(place)
            self.library.TF_StringCopy(place, value, len(value))
            return tensor
        kind = next(kind for kind, dtype in KINDS.items() if value.dtype == dtype)
        tensor = self.library.TF_AllocateTensor(kind, (c_int64 * value.ndim)(*value.shape), value.ndim, value.nbytes)
        ctypes.memmove(self.library.TF_TensorData(tensor), np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return tensor

    def _array(self, tensor: Any) -> np.ndarray:
        library = self.library
        shape = [library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))]
        data = ctypes.string_at(library.TF_TensorData(tensor), library.TF_TensorByteSize(tensor))
        return np.frombuffer(data, KINDS[library.TF_TensorType(tensor)]).reshape(shape)
