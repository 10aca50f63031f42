"""TensorFlow's operators that the TFOD dialect computes as they do: resizing, crops, NMS, layers, norms in training."""

import numpy as np

SIZES = [(32, 48), (48, 32), (30, 30), (27, 81), (93, 20), (801, 14), (600, 601)]  # height, width
LIMITS = (24, 40)  # of the resized image: its shorter side, its longer
NMS = [(300, 100, 0.6), (1000, 30, 0.7), (1000, 200, 0.3), (20, 50, 0.5), (0, 3, 0.5)]  # boxes, most, threshold
KERNELS = {"conv1": (7, 7, 3, 64), "block.conv0": (1, 1, 64, 32), "block.conv1": (1, 1, 64, 8)}
KERNELS |= {"block.conv2": (3, 3, 8, 8), "block.conv3": (1, 1, 8, 32)}  # height, width, in, out


def scattered(rng, count):
    """Boxes yxyx, many of them alike, and scores, many of them equal."""
    center, size = rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(3, 5, (count, 2)))
    boxes = np.concatenate([center - size / 2, center + size / 2], 1).round().astype(np.float32)
    return boxes, (rng.integers(0, 200, count) / 200).astype(np.float32)


def given():
    rng = np.random.default_rng(0)
    arrays = {"sizes": np.array(SIZES), "limits": np.array(LIMITS)}
    for number, size in enumerate(SIZES[:5]):
        arrays[f"image/{number}"] = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    corner = rng.uniform(0, 0.7, (60, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(0, 0.6, (60, 2)), 1)], 1).astype(np.float32)
    boxes[0] = 0
    arrays |= {"features": rng.standard_normal((1, 11, 17, 3)).astype(np.float32), "boxes": boxes}
    for number, (count, limit, threshold) in enumerate(NMS):
        arrays[f"nms/{number}/boxes"], arrays[f"nms/{number}/scores"] = scattered(rng, count)
        arrays |= {f"nms/{number}/limit": np.array(limit), f"nms/{number}/threshold": np.array(threshold)}
    for number, size in enumerate([(16, 24), (17, 23), (19, 21)]):
        arrays[f"input/{number}"] = rng.standard_normal((1, *size, 3)).astype(np.float32)
    for name, shape in KERNELS.items():
        scale = np.sqrt(2 / np.prod(shape[:3]))
        arrays[f"weights/{name}"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        ranges = ((0.5, 1.5), (-1, 1), (-1, 1), (1, 3))  # gamma, beta, mean, variance
        norm = np.stack([rng.uniform(low, high, shape[3]) for low, high in ranges]).astype(np.float32)
        arrays[f"weights/{name.replace('conv', 'norm')}"] = norm
    return arrays


def answer(given):
    import tensorflow as tf

    resize = tf.compat.v1.image.resize_images
    short, long = given["limits"].tolist()

    def resized(image):
        wanted = (short, long) if image.shape[0] < image.shape[1] else (long, short)
        return resize(image, wanted, preserve_aspect_ratio=True).numpy()

    def conv(x, name, stride=1):
        padding = "SAME"
        if name == "conv1":
            x, padding = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]), "VALID"
        return tf.nn.conv2d(x, given[f"weights/{name}"], stride, padding)

    def norm(x, name):
        gamma, beta, mean, variance = given[f"weights/{name}"]
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)

    blank = [np.zeros((*size, 1), np.uint8) for size in given["sizes"]]
    answers = {"sizes": np.array([resized(image).shape[:2] for image in blank])}
    for number in range(5):
        answers[f"resized/{number}"] = resized(given[f"image/{number}"])
    features, boxes = given["features"], given["boxes"]
    crops = tf.image.crop_and_resize(features, boxes, [0] * len(boxes), [14, 14])
    answers["crops"] = tf.nn.max_pool2d(crops, 2, 2, "SAME").numpy()
    answers["points"] = tf.image.crop_and_resize(features, boxes, [0] * len(boxes), [1, 1]).numpy()
    for number in range(len(NMS)):
        boxes, scores, limit, threshold = (
            given[f"nms/{number}/{name}"] for name in ("boxes", "scores", "limit", "threshold")
        )
        kept, _ = tf.image.non_max_suppression_with_scores(boxes, scores, int(limit), float(threshold), 0.0)
        answers[f"kept/{number}"] = kept.numpy()
    for number in range(3):
        x = tf.nn.relu(norm(conv(given[f"input/{number}"], "conv1", 2), "norm1"))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        shortcut = norm(conv(x, "block.conv0", 2), "block.norm0")
        x = tf.nn.relu(norm(conv(x, "block.conv1", 2), "block.norm1"))
        x = tf.nn.relu(norm(conv(x, "block.conv2"), "block.norm2"))
        answers[f"stages/{number}"] = tf.nn.relu(norm(conv(x, "block.conv3"), "block.norm3") + shortcut).numpy()
    gamma, beta, mean, variance = given["weights/norm1"]
    trained = tf.compat.v1.nn.fused_batch_norm(
        conv(given["input/0"], "conv1", 2),
        *(gamma, beta, mean, variance, 1e-5),
        is_training=True,
        exponential_avg_factor=0.003,
    )
    return answers | dict(
        zip(("trained", "trained/mean", "trained/variance"), (t.numpy() for t in trained), strict=True)
    )
