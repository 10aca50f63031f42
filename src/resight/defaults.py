"""Defaults that help, configuration and plan share; light, so that ``--help`` can name them."""

MODEL = "tf_efficientnet_lite0"
MIN_SIZE, MAX_SIZE = 384, 640  # pixels of the short and the long side
BATCH_SIZE = 8
EPOCHS, LEAST_STEPS, MOST_STEPS = 40, 1_000, 50_000  # of a training whose length is not set
SEED = 42
SCORE = 0.5  # threshold of a detection where the model has none of its own
TEST_FRACTION, VAL_FRACTION = 0.2, 0.1  # of the images
