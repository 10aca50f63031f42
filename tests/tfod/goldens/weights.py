"""The weights of the goldens, by a rule: a checkpoint of 200 MB follows from the names and shapes of its variables.

Each variable has a generator of its own, NumPy's legacy Mersenne Twister (whose stream is frozen), seeded with the
CRC-32 of its name. The draws fill TensorFlow's shape in C order, in double precision, and are rounded at the end. Their
scales keep the features of one size through all layers, and no class or anchor better than the others everywhere.
"""

import math
import zlib

import numpy as np

# Of the normal distribution of a kernel, beside He's sqrt(2 / inputs): the first part that its name holds decides.
GAINS = {
    "first_stage_box_predictor_first_conv": 0.9,
    "box_encodings": 0.3,
    "first_stage_box_predictor": 0.6,
    "box_prediction_head": 0.4,
    "class_prediction_head": 1.5,
    "": 1.0,
}
FIRST_NORM = "_feature_extractor_for_proposal_features/layer_with_weights-1/"  # it receives pixels of 0..255


def value_of(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The variable with this checkpoint key, without its suffix, as float32 in TensorFlow's layout."""
    draw = np.random.RandomState(zlib.crc32(key.encode()))
    kind = key.rpartition("/")[2]
    if kind == "moving_variance":
        values = draw.uniform(0.7, 1.3, shape) * (1e4 if FIRST_NORM in key else 1.0)
    else:
        values = draw.standard_normal(shape)
    if kind == "kernel":
        part, gain = next(item for item in GAINS.items() if item[0] in key)
        if part and "first_conv" not in part:
            values -= values.mean(tuple(range(len(shape) - 1)))
        values *= math.sqrt(2.0 / math.prod(shape[:-1])) * gain
    elif kind == "gamma":
        values = 0.65 + 0.05 * values
    elif kind == "moving_mean":
        values *= 10.0 if FIRST_NORM in key else 0.1
    elif kind in ("beta", "bias"):
        values *= 0.1
    return values.astype(np.float32)
