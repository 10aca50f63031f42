import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.config.defaults import OPERATION_DEFAULTS
from resight.config.loading import parse_set
from resight.config.toml_text import to_toml
from resight.config.tree import TFOD_MODELS, Operation
from resight.dialect import load_config
from resight.errors import ResightError
from resight.fpn.config import FpnTree

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SHARE = st.floats(0, 1)
ABOVE_0 = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
FROM_0 = st.floats(min_value=0, allow_infinity=False)
COUNT, COUNT_FROM_1 = st.integers(0, 2**70), st.integers(1, 2**70)


def section(**fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=fields)


RANGE = st.tuples(ABOVE_0, ABOVE_0).map(sorted)
TREES = section(
    data=section(
        path=TEXT,
        train=TEXT,
        val=TEXT,
        test=TEXT,
        label_map=TEXT,
        workers=COUNT,
        on_bad_record=st.sampled_from(["stop", "skip"]),
        as_stored=st.booleans(),
    ),
    model=st.tuples(COUNT_FROM_1, COUNT_FROM_1).flatmap(
        lambda sides: section(name=TEXT, start=TEXT, anchors=st.sampled_from(["fit", "default"])).map(
            lambda model: {**model, "min_size": min(sides), "max_size": max(sides)}
        )
    ),
    train=section(
        epochs=st.none() | ABOVE_0,
        steps=st.none() | COUNT_FROM_1,
        max_minutes=st.none() | ABOVE_0,
        batch_size=COUNT_FROM_1,
        learning_rate=st.none() | ABOVE_0,
        weight_decay=FROM_0,
        ema=SHARE,
        device=TEXT,
        seed=COUNT,
        deterministic=st.booleans(),
    ),
    augment=section(
        flip=SHARE,
        flip_pairs=st.dictionaries(TEXT, TEXT, max_size=3),
        scale=RANGE | st.lists(RANGE, min_size=1, max_size=3),
        color=SHARE,
    ),
    evaluate=section(every=ABOVE_0, metric=st.sampled_from(["mAP", "AP50", "AP75"])),
    checkpoint=section(every_steps=COUNT, every_minutes=ABOVE_0, keep=COUNT),
)


@given(TREES)
def test_what_is_written_reads_back_as_the_same_configuration(tmp_path_factory, tree):
    config = FpnTree.model_validate(tree)
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_text(to_toml(config), encoding="utf-8", newline="")
    assert load_config(path) == config


def test_every_key_is_written_with_a_comment():
    text = to_toml(load_config())
    written = tomllib.loads(text)
    for name, part in load_config():
        lines = text.split(f"[{name}]\n")[1].split("\n\n")[0].splitlines()
        fields = {key: field for key, field in type(part).model_fields.items() if key != "tfod"}
        assert len(lines) == len(fields)
        for line, (key, field) in zip(lines, fields.items(), strict=True):
            assert line.removeprefix("# ").startswith(f"{key} =")
            assert field.description and line.endswith(f"# {field.description}")
            assert (key in written[name]) == (getattr(part, key) is not None)


def test_defaults_give_way_to_the_file_and_the_file_to_overrides(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[train]\nseed = 1\nbatch_size = 2\n")
    config = load_config(path, {"train.seed": 3})
    assert (config.train.seed, config.train.batch_size, config.train.patience) == (3, 2, load_config().train.patience)


def test_all_errors_are_listed_each_with_its_key(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[train]\nbatch_size = 0\nsede = 1\n[modle]\nname = "x"\n[evaluate]\nmetric = "AP5O"\n')
    with pytest.raises(ResightError) as caught:
        load_config(path)
    text = str(caught.value)
    assert str(path) in text
    for part in ("train.batch_size = 0", "unknown key 'train.sede'", "unknown key 'modle'", "evaluate.metric = 'AP5O'"):
        assert part in text


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("train.sede", "train.seed"),
        ("train.learning_rat", "train.learning_rate"),
        ("seed", "train.seed"),
        ("model.batch_size", "train.batch_size"),  # the right name in the wrong section
        ("modle.name", "model.name"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, suggestion):
    with pytest.raises(ResightError, match=rf"Did you mean '{suggestion}'\?"):
        load_config(None, {key: 1})


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(ResightError, match="min_size 700 is larger than max_size 640"):
        load_config(None, {"model.min_size": 700})


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("model.min_size", 700, "model: min_size 700 is larger than max_size 640"),
        ("train.steps", "x", "train.steps = 'x': must be a whole number"),
        ("train.steps", 1.5, "train.steps = 1.5: must be a whole number"),
        ("model.detections", True, "model.detections = True: must be a number"),
        ("train.learning_rate", True, "train.learning_rate = True: must be a number"),
        ("train.steps", True, "train.steps = True: must be a number"),
        ("train.ema", True, "train.ema = True: must be a number"),
        ("data.repeat_threshold", True, "data.repeat_threshold = True: must be a number"),
        ("train.batch_size", 0, "train.batch_size = 0: must be greater than 0"),
        ("train.seed", -1, "train.seed = -1: must be 0 or more"),
        ("train.ema", 2, "train.ema = 2: must be 1 or less"),
        ("train.epochs", "many", "train.epochs = 'many': must be a number"),
        ("train.learning_rate", float("nan"), "train.learning_rate = nan: must be a finite number"),
        ("train.deterministic", "maybe", "train.deterministic = 'maybe': must be true or false"),
        ("data.path", 3, "data.path = 3: must be text"),
        ("evaluate.metric", "AP5O", "evaluate.metric = 'AP5O': must be 'mAP', 'AP50' or 'AP75'"),
        ("augment.scale", "x", "augment.scale = 'x': must be a list"),
        ("augment.scale", [], "augment.scale: [] is neither a range [LEAST, MOST] nor a list of ranges"),
        ("augment.scale", [1, 2, 3], "augment.scale: [1, 2, 3] is neither a range [LEAST, MOST] nor a list of ranges"),
        ("augment.scale", [0.5], "augment.scale: [0.5] is neither a range [LEAST, MOST] nor a list of ranges"),
        (
            "augment.scale",
            [[1, 2], 3],
            "augment.scale: [[1, 2], 3] is neither a range [LEAST, MOST] nor a list of ranges",
        ),
        ("augment.scale", [True, 2], "augment.scale: [True, 2] is neither a range [LEAST, MOST] nor a list of ranges"),
        ("augment.scale", [3, 2], "augment.scale: [3.0, 2.0] is not a range of positive factors"),
        ("augment.scale", [[1, 2], [0, 1]], "augment.scale: [0.0, 1.0] is not a range of positive factors"),
        ("augment.flip_pairs", 3, "augment.flip_pairs = 3: must be a table of names and values"),
    ],
)
def test_a_wrong_value_is_answered_in_the_words_of_the_configuration(key, value, answer):
    with pytest.raises(ResightError) as caught:
        load_config(None, {key: value})
    assert str(caught.value).startswith(f"options: {answer}")
    assert "Input should" not in str(caught.value) and "Value error" not in str(caught.value)


def test_true_for_a_list_of_numbers_is_told_that_a_list_is_wanted():
    with pytest.raises(ResightError, match=r"model\.tfod\.anchor_scales = True: must be a list"):
        load_config(None, {"model.name": TFOD_MODELS[0], "model.tfod.anchor_scales": True})


def test_a_key_of_other_models_is_not_suggested_instead_of_itself():
    with pytest.raises(ResightError, match=r"unknown key 'model\.heads'. Other models have it, this one does not"):
        load_config(None, {"model.name": TFOD_MODELS[0], "model.heads": 2})


def test_of_a_long_wrong_value_only_the_beginning_is_said():
    with pytest.raises(ResightError) as caught:
        load_config(None, {"train.steps": "9" * 5000})
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=60))
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(content)
    try:
        load_config(path)
    except ResightError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("content", ["train = 3", "train = [1]", "[[train]]\nseed = 1", "[train.seed]\nx = 1"])
def test_a_value_where_a_section_belongs_is_refused(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_text(content)
    with pytest.raises(ResightError, match="train"):
        load_config(path, {"train.patience": 1})


def test_a_section_takes_no_value(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("train = 3")
    words = "train is a section of the configuration; its keys are epochs, steps, max_minutes"
    with pytest.raises(ResightError, match=words):
        load_config(path)
    with pytest.raises(ResightError, match=words):
        load_config(None, {"train": 3})


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000], ids=["digits", "nesting"])
def test_absurd_values_are_refused(tmp_path, value):
    path = tmp_path / "a.toml"
    path.write_text(f"[train]\nseed = {value}")
    with pytest.raises(ResightError, match="is not valid TOML"):
        load_config(path)
    with pytest.raises(ResightError, match=r"train\.seed"):
        load_config(None, parse_set([f"train.seed={value}"]))


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ResightError, match="cannot be read"):
            load_config(path)


def test_assignments_are_toml_values_or_bare_words():
    assert parse_set(["train.steps=100", "model.name=resnet18", "augment.scale = [0.5, 2]", "data.path=a=b"]) == {
        "train.steps": 100,
        "model.name": "resnet18",
        "augment.scale": [0.5, 2],
        "data.path": "a=b",
    }
    with pytest.raises(ResightError, match=r"'train\.steps' is not of the form key=value"):
        parse_set(["train.steps"])


# TFOD's augmentations


def test_an_operation_knows_its_options_and_what_they_are_where_absent():
    operation = Operation(name="random_adjust_contrast", options={"min_delta": 0.5})
    assert operation.values == {"min_delta": 0.5, "max_delta": 1.25}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("random_adjust_hues", {}, "Did you mean 'random_adjust_hue'"),
        ("random_adjust_hue", {"max_detla": 0.1}, "Did you mean 'max_delta'"),
        ("random_adjust_contrast", {"min_delta": 1.5}, r"min_delta = 1.5 is larger than max_delta = 1.25"),
        ("random_crop_image", {"min_area": 0.5, "max_area": 1.5}, r"max_area = 1.5 is more than 1"),
        ("random_crop_image", {"random_coef": 7}, r"random_coef = 7 is more than 1"),
        ("random_square_crop_by_scale", {"num_scales": 10**8}, r"num_scales = 1e\+08 is more than 1000"),
        ("random_square_crop_by_scale", {"num_scales": 0}, "num_scales = 0 is too small"),
        ("random_square_crop_by_scale", {"scale_min": 0}, "scale_min = 0 is too small"),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ResightError, match=message):
        load_config(None, {"augment.operations": [{"name": name, "options": options}]})


def test_operations_are_written_as_they_were():
    given = [{"name": name, "options": options} for name, options in OPERATION_DEFAULTS.items()]
    config = load_config(None, {"augment.operations": [*given, {"name": "random_adjust_hue"}]})
    assert FpnTree.model_validate(tomllib.loads(to_toml(config))) == config


def test_the_most_detections_are_a_key_of_each_dialect(tmp_path):
    assert load_config(None, {"model.detections": 300}).model.detections == 300
    earlier = tmp_path / "earlier.toml"  # of a version without the key
    earlier.write_text("".join(line for line in to_toml(load_config()).splitlines(True) if "detections" not in line))
    assert load_config(earlier) == load_config() and load_config().model.detections == 100
    tfod = {"model.name": "faster_rcnn_resnet50_v1"}
    written = tmp_path / "config.toml"
    written.write_text(to_toml(load_config(None, tfod | {"model.tfod.detections": 200})))
    assert load_config(written, {"model.tfod.detections": 300}).model.tfod.detections == 300
    for wrong, key in (
        (tfod | {"model.detections": 300}, "model.tfod.detections_per_class"),
        ({"model.detections": 0}, "model.detections"),
        ({"model.detections": 10**9}, "model.detections"),
        ({"evaluate.max_detections": 50}, "evaluate.max_detections"),
    ):
        with pytest.raises(ResightError, match=key):
            load_config(None, wrong)


def test_of_very_many_unknown_keys_the_first_are_told(tmp_path):
    path = tmp_path / "many.toml"
    path.write_text("".join(f"k{number} = 1\n" for number in range(5_000)))
    with pytest.raises(ResightError, match=r"5,000 problems\n  line 1: unknown key 'k0'") as caught:
        load_config(path)
    assert "and 4,900 more" in caught.value.message
