"""Answers of other programs, asked for once and kept: ``make oracle-check`` asks again and compares.

An oracle is a script in a folder ``oracles/`` with ``given()``, arrays by name, and ``answer(given)``, the arrays that
the other program answers. Both are kept beside it in ``NAME.npz``, which the tests read; ``--write`` keeps them anew.
Each is asked in a process of its own: TensorFlow, loaded before PyTorch, makes PyTorch's import crash.
"""

import argparse
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent


def kept(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What an oracle, such as ``tfod/oracles/operators``, was given and what it answered."""
    with np.load(TESTS / f"{name}.npz", allow_pickle=False) as file:
        given = {key.removeprefix("given/"): file[key] for key in file if key.startswith("given/")}
        answer = {key.removeprefix("answer/"): file[key] for key in file if key.startswith("answer/")}
    return given, answer


def differences(answer: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """Names of the answers that are others: floats by more than rounding, everything else at all."""

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        return np.allclose(a, b, rtol=1e-5, atol=1e-5) if a.dtype.kind == "f" else np.array_equal(a, b)

    names = sorted(answer.keys() | expected.keys())
    return [key for key in names if key not in answer or key not in expected or not same(answer[key], expected[key])]


def ask(name: str, write: bool) -> list[str]:
    oracle = runpy.run_path(str(TESTS / f"{name}.py"))
    given, expected = (oracle["given"](), {}) if write else kept(name)
    answer = {key: np.asarray(value) for key, value in oracle["answer"](given).items()}
    if write:
        arrays = {f"given/{key}": value for key, value in given.items()}
        np.savez_compressed(TESTS / f"{name}.npz", **arrays, **{f"answer/{k}": v for k, v in answer.items()})
        return []
    return differences(answer, expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which of them, such as tfod/oracles/operators; all by default")
    parser.add_argument("--write", action="store_true", help="keep the answers in place of comparing them")
    arguments = parser.parse_args()
    every = sorted(str(path.relative_to(TESTS).with_suffix("")) for path in TESTS.glob("**/oracles/*.py"))
    sys.path.insert(0, str(TESTS.parent / "src"))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    failed = False
    for name in arguments.names or every:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            different = process.apply(ask, (name, arguments.write))
        failed |= bool(different)
        said = "differs in " + ", ".join(different) if different else "kept" if arguments.write else "as it was"
        print(f"{name}: {said} ({(TESTS / f'{name}.npz').stat().st_size / 1000:.0f} kB)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
