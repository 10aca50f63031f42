"""Takes out of an installation what the commands of Resight never use: ``python slim.py /opt/resight``.

What is left is compiled here, since the user of the container may not write beside it; unchecked, so that a copy with
other times stays compiled.
"""

import compileall
import py_compile
import shutil
import sys
from pathlib import Path

# Names of files and folders anywhere.
EVERYWHERE = ("tests", "*.pyi", "*.h", "*.hpp", "*.cuh", "*.a")
# Paths in site-packages.
UNUSED = (
    "torch/test",  # what tests torch's own build
    "torch/bin/test_*",
    "torch/bin/*Test",
    "torch/bin/protoc*",
    "onnx/backend/test",
    "onnxruntime/capi/libonnxruntime.so.*",  # the library a second time, for programs in C
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "botocore/data/*/*/examples-1.json*",
    # TensorBoard's server: a training writes events, and they are looked at elsewhere.
    "grpc",
    "grpcio-*.dist-info",
    "markdown",
    "markdown-*.dist-info",
    "werkzeug*",
    "tensorboard/webfiles.zip",
    "tensorboard/plugins/projector/tf_projector_plugin",
    "tensorboard_data_server*",
    # A second way to download, without which huggingface_hub takes the first.
    "hf_xet*",
    # What builds packages.
    "_distutils_hack",
    "distutils-precedence.pth",
    "pkg_resources",
    "setuptools*",
)


def slim(folder: Path) -> None:
    """``folder`` is a virtual environment or has its layout."""
    (site,) = folder.glob("lib/python*/site-packages")
    unused = [path for pattern in EVERYWHERE for path in site.rglob(pattern)]
    unused += [path for pattern in UNUSED for path in site.glob(pattern)]
    for path in unused:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it lay in a folder that has gone
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(site, force=True, quiet=2, invalidation_mode=unchecked)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
