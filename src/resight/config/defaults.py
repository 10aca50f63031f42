"""Defaults that help, configuration and plan share; light, so that ``--help`` can name them."""

from typing import Literal

MODEL = "tf_efficientnet_lite0"
MIN_SIZE, MAX_SIZE = 384, 640  # pixels of the short and the long side
BATCH_SIZE = 8
EPOCHS, MIN_STEPS, MAX_STEPS = 40, 1_000, 50_000  # of a training whose length is not set
EVALUATED = 10  # evaluations take at most a part in so many of the time of a training
PIPELINE = "pipeline.config"  # TFOD's configuration of a training, where one was given
SEED = 42
SERVE_HOST, SERVE_PORT = "127.0.0.1", 8501  # the port of TensorFlow Serving's REST
SERVE_MB, SERVE_MEGAPIXELS = 32, 50  # of a request, of an image
SCORE = 0.5  # threshold of a detection where the model has none of its own
MAX_AP_LOSS = 0.005  # of mAP on val that int8 and fewer proposals may cost together
TEST_FRACTION, VAL_FRACTION = 0.2, 0.1  # of the images

# Choices of functions and verbs.
Exif = Literal["auto", "stored", "upright"]
Background = Literal["none", "empty", "all"]
Precision = Literal["float32", "bfloat16"]
OnBad = Literal["error", "skip"]
Layout = Literal["resight", "tfod"]
ExportFormat = Literal["onnx", "openvino", "savedmodel"]
ExportPrecision = Literal["float32", "int8"]
Tuning = Literal["none", "speed"]
SaveFormat = Literal["coco", "voc", "yolo", "csv"]
InputType = Literal["image_tensor", "encoded_image_string_tensor", "tf_example", "float_image_tensor"]  # TFOD's names
ServedInput = Literal["image_tensor", "encoded_image_string_tensor"]

# TFOD's augmentations with the options of its protos and what they are where absent; clip_boxes is a bool, 0 or 1.
OPERATION_DEFAULTS: dict[str, dict[str, float]] = {
    "random_horizontal_flip": {"probability": 0.5},
    "random_vertical_flip": {"probability": 0.5},
    "random_adjust_hue": {"max_delta": 0.02},
    "random_adjust_contrast": {"min_delta": 0.8, "max_delta": 1.25},
    "random_adjust_saturation": {"min_delta": 0.8, "max_delta": 1.25},
    "random_adjust_brightness": {"max_delta": 0.2},
    "random_crop_image": {
        "min_object_covered": 1.0,
        "min_aspect_ratio": 0.75,
        "max_aspect_ratio": 1.33,
        "min_area": 0.1,
        "max_area": 1.0,
        "overlap_thresh": 0.3,
        "clip_boxes": 1.0,
        "random_coef": 0.0,
    },
    "random_square_crop_by_scale": {"max_border": 128, "scale_min": 0.6, "scale_max": 1.3, "num_scales": 8},
}
