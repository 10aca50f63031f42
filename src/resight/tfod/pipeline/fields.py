"""The fields of a TFOD `pipeline.config` (protos of release 2.8), in one table for reading, writing and editing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ...config.defaults import OPERATION_DEFAULTS
from ...config.loading import keys_of
from ...errors import ResightError
from ...io.textproto import Word, quote
from ..config import TfodTree

EXTRACTORS = {f"faster_rcnn_resnet{depth}_keras": f"faster_rcnn_resnet{depth}_v1" for depth in (50, 101, 152)}


@dataclass(frozen=True)
class Known:
    """A field of a message.

    Args:
        kind: type of the value, the words of an enum, or the name of a message in ``MESSAGES``.
        default: of the proto; () for a repeated field.
        key: our key. Its value is taken over as it is, unless ``by_hand``.
        only: the values that are supported, where not all are.
        use: whether it is taken over, has no effect here, or is not supported at all.
        note: why it has no effect, or what is supported instead.
    """

    kind: type | tuple[str, ...] | str = ""
    default: Any = None
    key: str = ""
    by_hand: bool = False
    only: tuple[Any, ...] = ()
    use: Literal["read", "ignored", "refused"] = "read"
    note: str = ""

    @property
    def is_message(self) -> bool:
        return isinstance(self.kind, str)

    @property
    def repeated(self) -> bool:
        return self.default == ()


def _only(default: Any, *supported: Any, note: str, kind: type | tuple[str, ...] | None = None) -> Known:
    return Known(kind or type(default), default, only=supported or (default,), note=note)


def _each(names: str, known: Known) -> dict[str, Known]:
    return dict.fromkeys(names.split(), known)


def _harmless(note: str, names: str) -> dict[str, Known]:
    return _each(names, Known(use="ignored", note=note))


def _refused(note: str, names: str) -> dict[str, Known]:
    return _each(names, Known(use="refused", note=note))


ONLY_FASTER_RCNN = f"supported is faster_rcnn with {', '.join(EXTRACTORS)}"
_BOXES_ONLY = "masks and keypoints are not used"
_READING = "how records are read ahead does not change what is learned"
_DRAWN = "affects only output files"
# Our names of the schedules and the fields that choose them.
SCHEDULES = {
    "cosine": "cosine_decay_learning_rate",
    "constant": "constant_learning_rate",
    "steps": "manual_step_learning_rate",
    "exponential": "exponential_decay_learning_rate",
}
_RESIZE = ("BILINEAR", "NEAREST_NEIGHBOR", "BICUBIC", "AREA")

_IMAGE = {
    "resize_method": _only("BILINEAR", note="supported is BILINEAR", kind=_RESIZE),
    "convert_to_grayscale": _only(False, note="images are RGB"),
}
_NORMS = _refused("this layer has no normalisation", "batch_norm sync_batch_norm group_norm")
_LAYER = _harmless("TFOD does not use it in this layer", "op activation regularize_depthwise force_use_bias")

_INPUTS = ("INPUT_DEFAULT", "TF_EXAMPLE", "TF_SEQUENCE_EXAMPLE")
_READER = {
    "label_map_path": Known(str, "", "data.label_map", by_hand=True),
    "shuffle": Known(use="ignored", note="order does not matter in evaluation"),
    "sample_1_of_n_examples": _only(1, note="supported is 1: build records of fewer images"),
    "num_additional_channels": _only(0, note="images are RGB"),
    "input_type": _only("TF_EXAMPLE", *_INPUTS[:2], note="supported is TF_EXAMPLE", kind=_INPUTS),
    "expand_labels_hierarchy": _only(False, note="a box has the one class it is stored with"),
    **_each("load_context_features load_context_image_ids", _only(False, note="Context R-CNN is not supported")),
    **_refused("supported is tf_record_input_reader with one input_path or several", "external_input_reader"),
    **_refused("all records count alike; supported are several input_path", "sample_from_datasets_weights"),
    **_harmless(_READING, "shuffle_buffer_size filenames_shuffle_buffer_size num_readers num_parallel_batches"),
    **_harmless(_READING, "num_prefetch_batches queue_capacity min_after_dequeue read_block_length prefetch_size"),
    **_harmless(_READING, "num_parallel_map_calls drop_remainder"),
    **_harmless("training repeats its records, evaluation reads them once", "num_epochs"),
    **_harmless(_BOXES_ONLY, "num_keypoints keypoint_type_weight load_instance_masks mask_type load_dense_pose"),
    **_harmless(_BOXES_ONLY, "load_track_id load_keypoint_depth_features use_keypoint_label_map"),
    **_harmless("a class text is looked up among both kinds of names", "use_display_name"),
    **_harmless("not used by a model of single images", "load_multiclass_scores include_source_id frame_index"),
    **_harmless("a name for messages", "name"),
}

# Messages of which one field alone may be given; what others TFOD has beside those in the table is not supported.
CHOICES = {"DetectionModel", "ImageResizer", "AnchorGenerator", "BoxPredictor", "Regularizer", "Initializer"}
CHOICES |= {"ClassificationLoss", "LearningRate", "PreprocessingStep"}

MESSAGES: dict[str, dict[str, Known]] = {
    "Pipeline": {
        "model": Known("DetectionModel"),
        "train_config": Known("TrainConfig"),
        "train_input_reader": Known("TrainReader"),
        "eval_config": Known("EvalConfig"),
        "eval_input_reader": Known("EvalReader", ()),
        **_refused("quantised training is not supported", "graph_rewriter"),
    },
    "Model": {"model": Known("DetectionModel")},
    "DetectionModel": {
        "faster_rcnn": Known("FasterRcnn"),
        **_refused(ONLY_FASTER_RCNN, "ssd center_net experimental_model"),
    },
    "FasterRcnn": {
        "number_of_stages": _only(2, note="supported is 2: neither masks (3) nor proposals alone (1)"),
        "num_classes": Known(int, 0, "data.label_map", by_hand=True),
        "image_resizer": Known("ImageResizer"),
        "feature_extractor": Known("FeatureExtractor"),
        "first_stage_anchor_generator": Known("AnchorGenerator"),
        "first_stage_atrous_rate": _only(1, note="supported is 1"),
        "first_stage_box_predictor_conv_hyperparams": Known("RpnLayer"),
        "first_stage_box_predictor_kernel_size": _only(3, note="supported is 3"),
        "first_stage_box_predictor_depth": _only(512, note="supported is 512"),
        "first_stage_minibatch_size": Known(int, 256, "model.tfod.rpn_batch"),
        "first_stage_positive_balance_fraction": Known(float, 0.5, "model.tfod.rpn_positive"),
        "first_stage_nms_score_threshold": Known(float, 0.0, "model.tfod.rpn_score"),
        "first_stage_nms_iou_threshold": Known(float, 0.7, "model.tfod.rpn_nms_iou"),
        "first_stage_max_proposals": Known(int, 300, "model.tfod.proposals"),
        "first_stage_localization_loss_weight": Known(float, 1.0, "model.tfod.rpn_box_weight"),
        "first_stage_objectness_loss_weight": Known(float, 1.0, "model.tfod.rpn_object_weight"),
        "initial_crop_size": Known(int, 0, "model.tfod.crop_size"),
        "maxpool_kernel_size": Known(int, 0, "model.tfod.pool_size"),
        "maxpool_stride": Known(int, 0, "model.tfod.pool_stride"),
        "second_stage_box_predictor": Known("BoxPredictor"),
        "second_stage_batch_size": Known(int, 64, "model.tfod.box_batch"),
        "second_stage_balance_fraction": Known(float, 0.25, "model.tfod.box_positive"),
        "second_stage_post_processing": Known("PostProcessing"),
        "second_stage_localization_loss_weight": Known(float, 1.0, "model.tfod.box_weight"),
        "second_stage_classification_loss_weight": Known(float, 1.0, "model.tfod.class_weight"),
        "second_stage_classification_loss": Known("ClassificationLoss"),
        "inplace_batchnorm_update": _only(False, note="supported is false, as in TF2"),
        "use_matmul_crop_and_resize": Known(bool, False, "model.tfod.matmul_crop"),
        "clip_anchors_to_image": Known(bool, False, "model.tfod.clip_anchors"),
        "use_static_shapes": Known(bool, False, "model.tfod.static_shapes"),
        "use_static_balanced_label_sampler": Known(bool, False, "model.tfod.static_shapes", by_hand=True),
        "use_static_shapes_for_eval": _only(False, note="supported is false: an exported model has no static shapes"),
        "use_partitioned_nms_in_first_stage": Known(bool, True, "", by_hand=True),
        "use_combined_nms_in_first_stage": _only(False, note="supported is false"),
        **_refused("supported are the losses of all sampled boxes", "hard_example_miner"),
        **_refused("Context R-CNN is not supported", "context_config"),
        **_harmless("the targets are the same", "use_matmul_gather_in_matcher"),
        **_harmless("without masks it has no effect", "second_stage_mask_prediction_loss_weight resize_masks"),
        **_harmless("they change no detection", "return_raw_detections_during_predict output_final_box_features"),
        **_harmless("they change no detection", "output_final_box_rpn_features"),
    },
    "ImageResizer": {"keep_aspect_ratio_resizer": Known("KeepAspect"), "fixed_shape_resizer": Known("FixedShape")},
    "KeepAspect": {
        "min_dimension": Known(int, 600, "model.min_size"),
        "max_dimension": Known(int, 1024, "model.max_size"),
        "pad_to_max_dimension": Known(bool, False, "model.tfod.pad"),
        "per_channel_pad_value": Known(float, (), "model.tfod.pad_value", by_hand=True),
        **_IMAGE,
    },
    "FixedShape": {
        **_each("height width", Known(int, 300, "model.tfod.fixed_size", by_hand=True)),
        **_IMAGE,
    },
    "FeatureExtractor": {
        "type": Known(str, "", "model.name", by_hand=True),
        "first_stage_features_stride": _only(16, note="supported is 16, as in TF2"),
        "batch_norm_trainable": Known(bool, False, "model.tfod.train_norms"),
        **_refused("TFOD's ResNet extractors take none", "conv_hyperparams"),
        **_refused("a feature pyramid is not TFOD's here; Resight's own is --model fasterrcnn_resnet50_fpn", "fpn"),
        **_harmless("not used by ResNet extractors", "override_base_feature_extractor_hyperparams"),
        **_harmless("not used by ResNet extractors", "pad_to_multiple"),
    },
    "AnchorGenerator": {"grid_anchor_generator": Known("GridAnchors")},
    "GridAnchors": {
        **_each("height width", Known(int, 256, "model.tfod.anchor_base", by_hand=True)),
        **_each("height_stride width_stride", Known(int, 16, "model.tfod.anchor_stride", by_hand=True)),
        **_each("height_offset width_offset", Known(int, 0, "model.tfod.anchor_offset", by_hand=True)),
        "scales": Known(float, (), "model.tfod.anchor_scales"),
        "aspect_ratios": Known(float, (), "model.tfod.anchor_ratios"),
    },
    "RpnLayer": {"regularizer": Known("Regularizer"), "initializer": Known("Initializer"), **_NORMS, **_LAYER},
    "FcLayer": {
        "regularizer": Known("Regularizer"),
        **_harmless("the heads of TF2 are made as keras makes a dense layer", "initializer"),
        **_NORMS,
        **_LAYER,
    },
    "Regularizer": {"l2_regularizer": Known("Weight"), "l1_regularizer": Known("Weight")},
    "Weight": {
        "weight": _only(1.0, 0.0, note="weight decay is not supported for TFOD's models; supported is weight: 0.0")
    },
    "Initializer": {"truncated_normal_initializer": Known("TruncatedNormal")},
    "TruncatedNormal": {
        "mean": _only(0.0, note="supported is 0.0"),
        "stddev": Known(float, 1.0, "model.tfod.rpn_stddev"),
    },
    "BoxPredictor": {"mask_rcnn_box_predictor": Known("HeadPredictor")},
    "HeadPredictor": {
        "fc_hyperparams": Known("FcLayer"),
        "use_dropout": _only(False, note="supported is false"),
        "box_code_size": _only(4, note="supported is 4"),
        "predict_instance_masks": _only(False, note="Mask R-CNN is not supported; Faster R-CNN is (false)"),
        "predict_keypoints": _only(False, note="keypoints are not supported"),
        "share_box_across_classes": Known(bool, False, "model.tfod.share_boxes"),
        **_harmless("without dropout it has no effect", "dropout_keep_probability"),
        **_harmless("without masks it has no effect", "conv_hyperparams mask_prediction_conv_depth mask_height"),
        **_harmless("without masks it has no effect", "mask_width mask_prediction_num_conv_layers"),
        **_harmless("without masks it has no effect", "masks_are_class_agnostic convolve_then_upsample_masks"),
    },
    "PostProcessing": {
        "batch_non_max_suppression": Known("Nms"),
        "score_converter": _only(
            "IDENTITY", "SOFTMAX", note="supported is SOFTMAX", kind=("IDENTITY", "SIGMOID", "SOFTMAX")
        ),
        "logit_scale": _only(1.0, note="supported is 1.0"),
        **_refused("scores are as the model gives them", "calibration_config"),
    },
    "Nms": {
        "score_threshold": Known(float, 0.0, "model.tfod.score"),
        "iou_threshold": Known(float, 0.6, "model.tfod.nms_iou"),
        "max_detections_per_class": Known(int, 100, "model.tfod.detections_per_class"),
        "max_total_detections": Known(int, 100, "model.tfod.detections"),
        **_each("use_static_shapes use_combined_nms use_hard_nms", _only(False, note="supported is false")),
        "use_class_agnostic_nms": _only(False, note="supported is false; later: resight predict --class-agnostic-nms"),
        "soft_nms_sigma": _only(0.0, note="supported is 0.0, the plain suppression"),
        "change_coordinate_frame": _only(True, note="supported is true"),
        **_harmless("where it is computed", "use_cpu_nms"),
        **_harmless("without static shapes here it has no effect", "use_partitioned_nms"),
        **_harmless("with suppression by class it has no effect", "max_classes_per_detection"),
    },
    "ClassificationLoss": {"weighted_softmax": Known("Softmax")},
    "Softmax": {
        "logit_scale": _only(1.0, note="supported is 1.0"),
        **_harmless("the loss is of each box in any case", "anchorwise_output"),
    },
    "TrainConfig": {
        "batch_size": Known(int, 32, "train.batch_size"),
        "data_augmentation_options": Known("PreprocessingStep", (), "augment.operations", by_hand=True),
        "optimizer": Known("Optimizer"),
        "gradient_clipping_by_norm": Known(float, 0.0, "train.clip_norm"),
        "fine_tune_checkpoint": Known(str, "", "model.start", by_hand=True),
        "fine_tune_checkpoint_type": Known(str, "", "model.start_type", by_hand=True),
        "fine_tune_checkpoint_version": Known(("UNKNOWN", "V1", "V2"), "V2", "model.start", by_hand=True),
        "from_detection_checkpoint": Known(bool, False, "model.start_type", by_hand=True),
        "load_all_detection_checkpoint_vars": _only(False, note='TF2 has fine_tune_checkpoint_type: "full" for it'),
        "num_steps": Known(int, 0, "train.steps", by_hand=True),
        "bias_grad_multiplier": _only(0.0, 0.0, 1.0, note="supported is none"),
        **_each("merge_multiple_label_boxes use_multiclass_scores", _only(False, note="supported is false")),
        **_refused("all of the model is trained", "freeze_variables update_trainable_variables"),
        **_harmless("training here is in float32, as TFOD's without a TPU", "use_bfloat16"),
        **_harmless("TF2's loop has one step for all devices", "sync_replicas startup_delay_steps"),
        **_harmless("TF2's loop has one step for all devices", "replicas_to_aggregate"),
        **_harmless("the input readers' own max_number_of_boxes decides, as in TF2", "max_number_of_boxes"),
        **_harmless("padded boxes weigh nothing", "unpad_groundtruth_tensors"),
        **_harmless("there is no regularisation to add", "add_regularization_loss"),
        **_harmless("see checkpoint.every_minutes and checkpoint.keep", "keep_checkpoint_every_n_hours"),
        **_harmless("a matter of loading", "run_fine_tune_checkpoint_dummy_computation"),
        **_harmless(_READING, "batch_queue_capacity num_batch_queue_threads prefetch_queue_capacity"),
        **_harmless(_DRAWN, "retain_original_images summarize_gradients"),
    },
    "Optimizer": {
        "momentum_optimizer": Known("Momentum"),
        "use_moving_average": Known(bool, True, "train.ema", by_hand=True),
        **_harmless("no averages are kept", "moving_average_decay"),
        **_refused("supported is momentum_optimizer", "rms_prop_optimizer adam_optimizer"),
    },
    "Momentum": {
        "learning_rate": Known("LearningRate"),
        "momentum_optimizer_value": Known(float, 0.9, "train.momentum"),
    },
    "LearningRate": {
        "cosine_decay_learning_rate": Known("Cosine", key="train.schedule", by_hand=True),
        "manual_step_learning_rate": Known("ManualStep", key="train.schedule", by_hand=True),
        "exponential_decay_learning_rate": Known("Exponential", key="train.schedule", by_hand=True),
        "constant_learning_rate": Known("Constant", key="train.schedule", by_hand=True),
    },
    "Constant": {"learning_rate": Known(float, 0.002, "train.learning_rate")},
    "Exponential": {
        "initial_learning_rate": Known(float, 0.002, "train.learning_rate"),
        "decay_steps": Known(int, 4000000, "train.schedule_steps"),
        "decay_factor": Known(float, 0.95, "train.decay"),
        "staircase": Known(bool, True, "train.staircase"),
        "burnin_learning_rate": Known(float, 0.0, "train.warmup_rate", by_hand=True),
        "burnin_steps": Known(int, 0, "train.warmup_steps", by_hand=True),
        "min_learning_rate": Known(float, 0.0, "train.least_rate"),
    },
    "ManualStep": {
        "initial_learning_rate": Known(float, 0.002, "train.learning_rate", by_hand=True),
        "schedule": Known("ManualStepPart", (), "train.milestones", by_hand=True),
        "warmup": Known(bool, False, "train.warmup_steps", by_hand=True),
    },
    "ManualStepPart": {
        "step": Known(int, 0, "train.milestones", by_hand=True),
        "learning_rate": Known(float, 0.002, "train.milestones", by_hand=True),
    },
    "Cosine": {
        "learning_rate_base": Known(float, 0.002, "train.learning_rate"),
        "total_steps": Known(int, 4000000, "train.schedule_steps"),
        "warmup_learning_rate": Known(float, 0.0002, "train.warmup_rate", by_hand=True),
        "warmup_steps": Known(int, 10000, "train.warmup_steps", by_hand=True),
        "hold_base_rate_steps": Known(int, 0, "train.hold_steps"),
    },
    "TrainReader": {
        **_READER,
        "shuffle": _only(True, note="training draws its own order from train.seed; supported is true"),
        "tf_record_input_reader": Known("TrainRecords"),
        "max_number_of_boxes": Known(int, 100, "model.tfod.max_boxes"),
    },
    "EvalReader": {
        **_READER,
        "tf_record_input_reader": Known("EvalRecords"),
        "max_number_of_boxes": Known(int, 100, "model.tfod.evaluated_boxes", by_hand=True),
    },
    "TrainRecords": {"input_path": Known(str, (), "data.train", by_hand=True)},
    "EvalRecords": {"input_path": Known(str, (), "data.test", by_hand=True)},
    "EvalConfig": {
        "metrics_set": Known(str, (), "evaluate.metric", by_hand=True),
        "use_moving_averages": _only(False, note="supported is false: averaged weights are not kept"),
        "eval_instance_masks": _only(False, note="Mask R-CNN is not supported"),
        "force_no_resize": _only(False, note="evaluation resizes as training does"),
        "use_dummy_loss_in_eval": _only(False, note="the losses are computed"),
        **_each("ignore_groundtruth skip_predictions_for_unlabeled_class", _only(False, note="supported is false")),
        **_refused("supported is coco_detection_metrics", "parameterized_metric"),
        **_harmless("one image is measured at a time", "batch_size"),
        **_harmless("every record is measured, as in TF2", "num_examples"),
        **_harmless("see evaluate.every", "eval_interval_secs max_evals"),
        **_harmless("the AP of every class is printed anyway", "include_metrics_per_category"),
        **_harmless("the AP of every class is printed anyway", "all_metrics_per_category super_categories"),
        **_harmless("no such metric is among coco_detection_metrics", "recall_lower_bound recall_upper_bound"),
        **_harmless("no such metric is among coco_detection_metrics", "image_classes_field_map_empty_to_ones"),
        **_harmless("ignored by the TF2 loop", "save_graph eval_master"),
        **_harmless(_DRAWN, "num_visualizations visualization_export_dir export_path min_score_threshold"),
        **_harmless(_DRAWN, "max_num_boxes_to_visualize skip_scores skip_labels visualize_groundtruth_boxes"),
        **_harmless(_DRAWN, "groundtruth_box_visualization_color keep_image_id_for_visualization_export"),
        **_harmless(_DRAWN, "retain_original_images retain_original_image_additional_channels keypoint_edge"),
    },
    "PreprocessingStep": {name: Known(name) for name in OPERATION_DEFAULTS},
}

_KINDS: dict[str, type] = {"clip_boxes": bool, "max_border": int, "num_scales": int}
for _name, _options in OPERATION_DEFAULTS.items():
    MESSAGES[_name] = {
        option: Known(_KINDS.get(option, float), default, "augment.operations", by_hand=True)
        for option, default in _options.items()
    }
for _name in ("random_horizontal_flip", "random_vertical_flip"):
    MESSAGES[_name] |= _harmless(_BOXES_ONLY, "keypoint_flip_permutation")


def scalar(value: Any) -> str:
    """A value as a config has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return quote(value) if isinstance(value, str) and not isinstance(value, Word) else str(value)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def paths(kind: str = "Pipeline", path: str = "") -> Iterator[tuple[str, Known]]:
    """Every field below a message with its path, `train_config.batch_size`."""
    for name, known in MESSAGES[kind].items():
        place = join(path, name)
        yield place, known
        if known.is_message and known.use == "read":
            yield from paths(str(known.kind), place)


def tfod_equivalent(key: str) -> str:
    """Our key for a field of TFOD's, named by its path or the end of it, ``batch_size`` say; "" where there is none.

    Of several fields the one that lies least deep is meant; where they lie equally deep any of them may be.
    """
    found = [(place.count("."), known.key) for place, known in paths() if known.key and f".{place}".endswith(f".{key}")]
    least = min((depth for depth, _ in found), default=0)
    return "' or '".join(dict.fromkeys(name for depth, name in found if depth == least))


def refuse_tfod_keys(keys: Iterable[str]) -> None:
    """
    Raises:
        ResightError: a key of ``--set`` is not ours but TFOD's; names ours.
    """
    found = {key: name for key in keys if key not in keys_of(TfodTree) and (name := tfod_equivalent(key))}
    if found:
        fix = "; ".join(f"'{key}' is '{name}' here" for key, name in found.items())
        raise ResightError(f"TFOD's names, not Resight's: {', '.join(found)}", where="--set", fix=f"{fix}.")
