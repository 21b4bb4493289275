"""Test the tests: the usual mistakes, put into a copy of the oracle one by one, and each must be noticed.

A mutation replaces one piece of source, which must occur exactly once, and names a test worked out by hand.
That test is run against a fresh copy of ``reference`` with the mistake in it and has to fail there.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path

import pytest

import reference

#: the mistake, the module, what stands there, what to put there, the test by hand that must fail
MUTATIONS = [
    (
        "two negative overlaps make an area",
        "boxes",
        "b[..., :2]), 0)",
        "b[..., :2]), -9)",
        "test_boxes.test_apart_in_both_directions_is_not_an_overlap",
    ),
    (
        "epsilon in the IoU",
        "boxes",
        "/ box_union(a, b)",
        "/ (box_union(a, b) + 1e-9)",
        "test_boxes.test_boxes_without_area",
    ),
    (
        "union counts the intersection twice",
        "boxes",
        "- box_intersection(a, b)",
        "",
        "test_boxes.test_overlap_by_hand",
    ),
    ("cell offset dropped", "decode", "(col + p_x) / W", "p_x / W", "test_decode.test_box_by_hand"),
    (
        "anchor width and height swapped",
        "decode",
        "a_w, a_h = np.array",
        "a_h, a_w = np.array",
        "test_decode.test_box_by_hand",
    ),
    (
        "predicted width and height swapped",
        "decode",
        "p_x, p_y, t_w, t_h =",
        "p_x, p_y, t_h, t_w =",
        "test_decode.test_box_by_hand",
    ),
    (
        "rows and columns of the grid swapped",
        "decode",
        "(t_w, a_w, W), (t_h, a_h, H)",
        "(t_w, a_w, H), (t_h, a_h, W)",
        "test_decode.test_box_by_hand",
    ),
    (
        "channels read anchor-minor",
        "decode",
        "head.reshape(B, len(region.anchors), 5 + region.classes, H, W), 2",
        "head.reshape(B, 5 + region.classes, len(region.anchors), H, W), 1",
        "test_decode.test_softmax_by_hand",
    ),
    (
        "sigmoid on sizes",
        "decode",
        "out[..., :2] = logistic(raw[..., :2])",
        "out[..., :4] = logistic(raw[..., :4])",
        "test_decode.test_sizes_stay_raw_in_the_layer_output",
    ),
    (
        "offset in cells",
        "decode",
        "0.5 + p_x * a_w",
        "0.5 + p_x",
        "test_decode.test_offsets_from_the_anchor_by_hand",
    ),
    (
        "the minus that the paper prints",
        "decode",
        "0.5 + p_x * a_w",
        "p_x * a_w - 0.5",
        "test_decode.test_offsets_from_the_anchor_by_hand",
    ),
    (
        "background outside the softmax",
        "decode",
        "out[..., 4:] = softmax(raw[..., 4:])",
        "out[..., 4:] = logistic(raw[..., 4:])",
        "test_decode.test_background_by_hand",
    ),
    (
        "target sizes in units of the other side",
        "decode",
        "np.log(box[2:] * grid / prior",
        "np.log(box[2:] * grid[::-1] / prior",
        "test_loss.test_size_is_measured_in_anchors",
    ),
    (
        "truths after the end of the list",
        "assign",
        "truth[: ends[0]] if len(ends) else truth",
        "truth[truth[:, 0] != 0]",
        "test_assign.test_list_ends_at_the_first_x_of_zero",
    ),
    (
        "y == 0 ends the list",
        "assign",
        "np.flatnonzero(truth[:, 0] == 0)",
        "np.flatnonzero((truth[:, :2] == 0).any(axis=1))",
        "test_assign.test_list_ends_at_the_first_x_of_zero",
    ),
    (
        "last anchor wins a tie (>= for >)",
        "assign",
        "np.argmax(np.fmax(box_iou_broadcast(centred[0], centred[1:]), 0))",
        "len(shapes) - 1 - np.argmax(box_iou_broadcast(centred[0], centred[:0:-1]))",
        "test_assign.test_first_anchor_wins_a_tie",
    ),
    (
        "bias_match by predicted shapes",
        "assign",
        "if region.bias_match else",
        "if not region.bias_match else",
        "test_assign.test_shapes_of_predictions_choose_without_bias_match",
    ),
    (
        "anchor over the other side of the grid",
        "assign",
        "dtype=boxes.dtype) / grid if",
        "dtype=boxes.dtype) / grid[::-1] if",
        "test_assign.test_width_and_height_of_an_anchor",
    ),
    (
        "cell rounded instead of truncated",
        "assign",
        "(truth[:2] * grid).astype(int)",
        "np.round(truth[:2] * grid).astype(int)",
        "test_assign.test_cell_by_hand",
    ),
    (
        "row and column swapped",
        "assign",
        "col, row = (truth",
        "row, col = (truth",
        "test_assign.test_cell_by_hand",
    ),
    (
        "first truth wins a slot",
        "assign",
        "index[match.slot] = match.row",
        "index[match.slot] = max(0, index[match.slot])",
        "test_assign.test_last_truth_wins_a_slot",
    ),
    (
        ">= at the ignore threshold",
        "assign",
        "best > region.ignore_threshold",
        "best >= region.ignore_threshold",
        "test_assign.test_ignored_only_above_the_threshold",
    ),
    (
        "mask looks at the last truth only",
        "assign",
        "best[image] = np.fmax(best[image], iou)",
        "best[image] = iou",
        "test_assign.test_best_of_all_truths_decides_about_ignoring",
    ),
    (
        "classification-only truths through the map",
        "assign",
        "_label(truths[only], None, region",
        "_label(truths[only], region.class_map, region",
        "test_assign.test_classification_only_image",
    ),
    (
        "belief without objectness",
        "assign",
        "objectness * class_probs",
        "class_probs",
        "test_assign.test_classification_only_image",
    ),
    (
        "prior one batch too long",
        "loss",
        "if seen < region",
        "if seen <= region",
        "test_loss.test_prior_ends_at_12800",
    ),
    (
        "ignore mask not applied",
        "loss",
        "np.where(assignment.ignore, 0, region.noobject_scale)",
        "region.noobject_scale",
        "test_loss.test_good_predictions_are_not_punished",
    ),
    (
        "rescore ignored",
        "loss",
        "v[4] = box_iou_broadcast(boxes[match.slot], box) if region.rescore else 1",
        "v[4] = 1",
        "test_loss.test_rescore_asks_for_the_overlap",
    ),
    ("weight 2 - wh dropped", "loss", "(2 - box[2] * box[3] if", "(1 if", "test_loss.test_one_truth_by_hand"),
    (
        "2 - wh with sizes that are not fractions of the picture",
        "loss",
        "(2 - box[2] * box[3] if",
        "(2 - 4 * box[2] * box[3] if",
        "test_loss.test_one_truth_by_hand",
    ),
    (
        "object scale squared",
        "loss",
        "w[4] = region.object_scale",
        "w[4] = region.object_scale**2",
        "test_loss.test_one_truth_by_hand",
    ),
    (
        "no-object scale squared",
        "loss",
        "np.where(assignment.ignore, 0, region.noobject_scale)",
        "np.where(assignment.ignore, 0, region.noobject_scale**2)",
        "test_loss.test_scales_enter_once",
    ),
    (
        "factor 1/2 missing",
        "loss",
        "(output - targets.value) ** 2 / 2",
        "(output - targets.value) ** 2",
        "test_loss.test_one_truth_by_hand",
    ),
    (
        "sigma' missing for objectness",
        "loss",
        "grad[..., 4] *= output[..., 4] * (1 - output[..., 4])",
        "pass",
        "test_loss.test_gradient_of_one_truth_by_hand",
    ),
    (
        "sigma' on sizes",
        "loss",
        "grad[..., :2] *= output[..., :2] * (1 - output[..., :2])",
        "grad[..., :4] *= output[..., :4] * (1 - output[..., :4])",
        "test_loss.test_gradient_of_one_truth_by_hand",
    ),
    (
        "sigma' on the background",
        "loss",
        "if not region.background:",
        "if True:",
        "test_loss.test_background_gradient_is_darknets",
    ),
    (
        "sigma' on offsets from the anchor",
        "loss",
        'if region.location == "cell":',
        "if True:",
        "test_loss.test_offsets_from_the_anchor_by_hand",
    ),
    (
        "target offsets in cells",
        "decode",
        "(place - 0.5) / prior",
        "place - 0.5",
        "test_loss.test_offsets_from_the_anchor_by_hand",
    ),
    (
        "prior pulls offsets to a half",
        "loss",
        '0.5 if region.location == "cell" else 0',
        "0.5",
        "test_loss.test_prior_on_offsets_by_hand",
    ),
    (
        "sign of the class gradient",
        "loss",
        "grad = targets.weight * (output",
        "grad = targets.weight * abs(output",
        "test_loss.test_gradient_of_one_truth_by_hand",
    ),
    (
        "delta uphill",
        "loss",
        "targets.weight * (targets.value - output)",
        "targets.weight * (output - targets.value)",
        "test_loss.test_delta_of_one_truth_by_hand",
    ),
    (
        "second logistic truth replaces the first",
        "loss",
        '"logistic" and repeated',
        '"logistic" and False',
        "test_loss.test_logistic_truths_add_up",
    ),
    (
        "second softmax truth adds to the first",
        "loss",
        'region.class_activation == "logistic" and repeated',
        "repeated",
        "test_loss.test_last_truth_overwrites_the_slot",
    ),
    (
        "second truth clears the whole tree",
        "loss",
        "for node in region.tree.path(match.label):",
        "weight[:] = 0\n        for node in region.tree.path(match.label):",
        "test_loss.test_second_truth_of_a_tree_keeps_other_groups",
    ),
    (
        "ancestors learn nothing",
        "loss",
        "region.tree.path(match.label):",
        "region.tree.path(match.label)[:1]:",
        "test_loss.test_tree_path_by_hand",
    ),
    (
        "prior on a classification-only image",
        "loss",
        "weight[match.slot[0], ..., :4] = 0",
        "pass",
        "test_loss.test_classification_only_image_by_hand",
    ),
    (
        "softmax treated as independent",
        "loss",
        "return p * (grad - np.repeat",
        "return p * (grad - 0 * np.repeat",
        "test_loss.test_squared_error_by_hand",
    ),
    (
        ">= suppresses",
        "nms",
        "> iou_threshold).any()",
        ">= iou_threshold).any()",
        "test_nms.test_threshold_itself_survives",
    ),
    (
        "higher index wins a tie",
        "nms",
        'np.argsort(-scores, kind="stable")',
        "np.argsort(scores)[::-1]",
        "test_nms.test_lower_index_wins_a_tie",
    ),
    (
        "suppressed boxes suppress",
        "nms",
        "boxes[i], boxes[keep]",
        "boxes[i], boxes[scores > scores[i]]",
        "test_nms.test_suppressed_boxes_do_not_suppress",
    ),
    (
        "every class starts from the first order",
        "nms",
        "front = order[:count]\n        order",
        "front = np.sort(order[:count])\n        order",
        "test_nms.test_per_class_starts_from_the_order_of_the_class_before",
    ),
    (
        ">= at the score threshold",
        "decode",
        "scores > conf,",
        "scores >= conf,",
        "test_detect.test_threshold_is_strict",
    ),
    (
        "NMS across classes",
        "nms",
        "if class_agnostic else label",
        "if True else label",
        "test_detect.test_classes_do_not_suppress_each_other",
    ),
    (
        "equal scores in another order",
        "nms",
        "np.array(sorted(keep), np.int64)",
        "np.array(sorted(keep)[::-1], np.int64)",
        "test_detect.test_equal_scores_by_location_then_class",
    ),
    (
        "background taken for objectness",
        "decode",
        "scores = probs if region.background else p_o * probs",
        "scores = p_o * probs",
        "test_detect.test_background_replaces_objectness",
    ),
    (
        "descent on conditional probabilities",
        "decode",
        "absolute = absolute_probability(probs, region.tree)",
        "absolute = probs",
        "test_detect.test_tree_descends_on_absolute_probabilities",
    ),
    (
        "middle column negated",
        "detect",
        "mirrored[:A, :, swapped]",
        "mirrored[:A, :, :]",
        "test_detect.test_flip_average_by_hand",
    ),
    (
        "the textbook's reorg",
        "reorg",
        'order == "space_to_depth" else',
        "order else",
        "test_reorg.test_by_hand",
    ),
    (
        "max pool padded with zeros",
        "pool",
        "constant_values=-np.inf",
        "constant_values=0",
        "test_pool.test_stride_1_keeps_the_size",
    ),
    (
        "letterbox rounds",
        "letterbox",
        "h * net_w // w",
        "int(h * net_w / w + 0.5)",
        "test_letterbox.test_canvas_by_hand",
    ),
    (
        "boxes forget half a pixel of margin",
        "letterbox",
        "(net - inner) / 2 / net",
        "(net - inner) // 2 / net",
        "test_letterbox.test_margin_of_boxes_by_hand",
    ),
    (
        "> for >= when matching",
        "average_precision",
        "(iou >= iou_threshold)",
        "(iou > iou_threshold)",
        "test_average_precision.test_overlap_of_exactly_the_threshold_counts",
    ),
    (
        "difficult truths are to be found",
        "average_precision",
        "int((~truths.difficult).sum())",
        "len(truths.difficult)",
        "test_average_precision.test_difficult_truths_are_neither_found_nor_missed",
    ),
    (
        "second detection takes the next truth",
        "average_precision",
        "hit[speakers[first]] = True",
        "hit[speakers] = True",
        "test_average_precision.test_second_box_on_a_truth_does_not_take_the_next_one",
    ),
    (
        "a recall on the grid does not reach it",
        "average_precision",
        'side="left"',
        'side="right"',
        "test_average_precision.test_curve_that_never_reaches_full_recall_by_hand",
    ),
    (
        "biased rolling variance",
        "batchnorm",
        "MOMENTUM * unbiased",
        "MOMENTUM * variance",
        "test_batchnorm.test_by_hand",
    ),
    (
        "rolling statistics the other way round",
        "batchnorm",
        "(1 - MOMENTUM) * rolling_mean + MOMENTUM * mean",
        "MOMENTUM * rolling_mean + (1 - MOMENTUM) * mean",
        "test_batchnorm.test_by_hand",
    ),
    (
        "epsilon of Darknet inside the root",
        "batchnorm",
        "np.sqrt(variance) + 1e-6",
        "np.sqrt(variance + 1e-6)",
        "test_batchnorm.test_the_epsilon_shows_where_the_variance_is_tiny",
    ),
    (
        "windows begin a stride late",
        "conv",
        "::stride, ::stride]",
        "stride - 1 :: stride, stride - 1 :: stride]",
        "test_conv.test_by_hand",
    ),
    (
        "border on the far side only",
        "conv",
        "(pad, pad), (pad, pad)",
        "(0, 2 * pad), (0, 2 * pad)",
        "test_conv.test_by_hand",
    ),
    (
        "kernels mirrored",
        "conv",
        "weights.reshape(groups, -1, k)",
        "weights[..., ::-1, ::-1].reshape(groups, -1, k)",
        "test_conv.test_by_hand",
    ),
    (
        "slope of leaky",
        "activation",
        "0.1 * x",
        "0.01 * x",
        "test_conv.test_activations_by_hand",
    ),
    (
        "slope of leaky at 0",
        "activation",
        "y > 0, 1, 0.1",
        "y >= 0, 1, 0.1",
        "test_conv.test_activations_by_hand",
    ),
    (
        "last truth of a cell wins",
        "grid",
        "        if cell[0]:\n            continue\n",
        "        cell[:] = 0\n",
        "test_grid.test_grid_truth_by_hand",
    ),
    (
        "target sizes without the root",
        "grid",
        "np.sqrt(truth[b, cell, -2:])",
        "truth[b, cell, -2:]",
        "test_grid.test_gradient_and_loss_by_hand",
    ),
    (
        "decoded sizes without the square",
        "grid",
        "boxes[..., 2:] **= 2\n    return boxes",
        "pass\n    return boxes",
        "test_grid.test_decode_by_hand",
    ),
    (
        "burn-in one batch too long",
        "schedule",
        "n < s.burn_in",
        "n <= s.burn_in",
        "test_schedule.test_burn_in_ends_where_the_policy_would_have_been",
    ),
    (
        "no root is likely enough",
        "wordtree",
        "best if group == 0 else tree.parents[start]",
        "tree.parents[start]",
        "test_wordtree.test_descend_without_a_likely_root_is_the_likeliest",
    ),
    (
        "anchors by squared error",
        "kmeans",
        "np.maximum(1 - shape_iou(wh, anchors), 0)",
        "_squared_distance(wh, anchors)",
        "test_kmeans.test_the_two_distances_disagree",
    ),
    (
        "small rows dropped before the list is cut",
        "augment",
        "labels = labels[:max_labels]\n    boxes = correct_boxes(labels[:, 1:], scale, shift, mirror)\n"
        "    visible = (boxes[:, 2:] >= SMALLEST).all(axis=1)\n",
        "boxes = correct_boxes(labels[:, 1:], scale, shift, mirror)\n"
        "    visible = (boxes[:, 2:] >= SMALLEST).all(axis=1)\n"
        "    visible &= visible.cumsum() <= max_labels\n",
        "test_augment.test_rows_are_kept_before_small_ones_are_dropped",
    ),
]


class _Mutant(MetaPathFinder, SourceLoader):
    """Imports ``reference.<module>`` from changed source."""

    def __init__(self, module: str, old: str, new: str):
        self.name = f"reference.{module}"
        self.path = str(Path(reference.__path__[0]) / f"{module}.py")
        source = Path(self.path).read_text()
        assert source.count(old) == 1, f"{self.path} holds {source.count(old)} times: {old}"
        self.source = source.replace(old, new)

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self.name else None

    def get_filename(self, fullname) -> str:
        return self.path

    def get_data(self, path) -> bytes:
        return self.source.encode()

    def path_stats(self, path):
        raise OSError("no bytecode: the cache belongs to the true source")


def _unload(test_module: str) -> dict:
    """Forget the test module and the oracle, all but its pure data, which tests.strategies shares."""
    keep = {"reference.region", "reference.layers"}
    names = [n for n in sys.modules if n == test_module or (n.startswith("reference.") and n not in keep)]
    for name in names:  # "from reference import image" would find the attribute without importing
        vars(reference).pop(name.removeprefix("reference."), None)
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def oracle_with(module: str, old: str, new: str, test_module: str) -> Iterator:
    """The test module, imported afresh against a copy of the oracle in which `old` is `new`."""
    mutant = _Mutant(module, old, new)
    true = _unload(test_module)
    sys.meta_path.insert(0, mutant)
    try:
        yield importlib.import_module(test_module)
    finally:
        sys.meta_path.remove(mutant)
        _unload(test_module)
        sys.modules.update(true)
        for name in true.keys() - {test_module}:
            setattr(reference, name.removeprefix("reference."), true[name])


@pytest.mark.parametrize(
    ("module", "old", "new", "test"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS]
)
def test_mistake_is_noticed(module, old, new, test):
    file, function = test.split(".")
    with oracle_with(module, old, new, f"tests.{file}") as tests, pytest.raises((AssertionError, IndexError)):
        getattr(tests, function)()


@pytest.mark.parametrize("test", sorted({m[4] for m in MUTATIONS}))
def test_copy_without_a_mistake_passes(test):
    """It is the mistake that fails, not the copying."""
    file, function = test.split(".")
    with oracle_with("boxes", "import numpy as np", "import numpy as np", f"tests.{file}") as tests:
        getattr(tests, function)()
