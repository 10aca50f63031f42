"""TensorFlow's image operations that TFOD's augmentations use, and the sides of TFOD's squares in its arithmetic."""

import numpy as np

FACTORS = {
    "hue": (-0.4, -0.02, 0.0, 0.013, 0.5, 0.8),
    "contrast": (0.0, 0.8, 1.0, 1.25, 3.0),
    "saturation": (0.0, 0.8, 1.0, 1.25, 5.0),
    "brightness": (-0.3, 0.0, 0.2),
}
# Windows: the size of the image, its objects (yxyx, shares of it) and how many are drawn.
SIZE, OBJECTS, DRAWS = (60, 90), [[0.1, 0.2, 0.3, 0.35], [0.5, 0.6, 0.9, 0.95]], 1500
SCALES, SIDES = (0.6, 1.3, 8), (1, 2000)  # of squares: least, most and number; shorter sides of images from, to


def given():
    """A picture of random colours, and of the special ones grey, black, white and pure; draws and limits."""
    picture = np.random.default_rng(5).integers(0, 256, (12, 16, 3)).astype(np.float32)
    picture[0, :5] = np.transpose([[0, 255, 128, 255, 0], [0, 255, 128, 0, 0], [0, 255, 128, 0, 255]])
    factors = {f"factors/{name}": np.array(values, np.float32) for name, values in FACTORS.items()}
    limits = {"size": np.array(SIZE), "objects": np.array(OBJECTS, np.float32), "draws": np.array(DRAWS)}
    return {"picture": picture, **factors, **limits, "scales": np.array(SCALES), "sides": np.array(SIDES)}


def answer(given):
    import tensorflow as tf

    answers = {}
    for name in FACTORS:
        adjust = getattr(tf.image, f"adjust_{name}")
        adjusted = [(adjust(given["picture"] / 255, factor) * 255).numpy() for factor in given[f"factors/{name}"]]
        answers[f"colours/{name}"] = np.stack(adjusted)

    @tf.function
    def window(seed):
        start, sides, _ = tf.image.stateless_sample_distorted_bounding_box(
            (*given["size"].tolist(), 3),
            given["objects"][None],
            (seed, 7),
            aspect_ratio_range=(0.75, 1.33),
            area_range=(0.1, 1.0),
            max_attempts=100,
            min_object_covered=1.0,
        )
        return tf.concat([start[:2], start[:2] + sides[:2]], 0)

    windows = [window(tf.constant(seed)).numpy() for seed in range(int(given["draws"]))]
    least, most, number = given["scales"].tolist()
    sides = tf.linspace(least, most, int(number))[:, None] * tf.range(*given["sides"].astype(np.float32))
    return answers | {"windows": np.array(windows, np.int16), "squares": sides.numpy().astype(np.int16)}
