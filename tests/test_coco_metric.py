"""reference.coco_metric: COCO's rules by hand, and every number against COCO's own program."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.average_precision import DetectionTable, TruthTable
from reference.coco_metric import AREAS, coco_metric, match_coco, rank_in_picture
from tests.test_average_precision import NOWHERE, A, B, detection_table, truth_table
from yolov2 import coco_metric as product

NEAR_A = (11, 10, 4, 4)  # IoU .6 with A = (10, 10, 4, 4)

# Two pictures, two classes, corners on whole pixels: overlaps, scores and areas are often equal to each other
# and to the limits.
place, side = st.integers(0, 12).map(lambda n: 4.0 * n), st.sampled_from([16.0, 32.0, 64.0, 96.0, 144.0])
boxes = st.tuples(place, place, side, side)
TRUTHS = st.lists(st.tuples(st.integers(0, 1), boxes, st.integers(0, 1), st.booleans()), max_size=8).map(
    lambda rows: truth_table(*rows)
)
FOUND = st.lists(
    st.tuples(st.integers(0, 1), boxes, st.sampled_from([0.125, 0.25, 0.5, 0.75]), st.integers(0, 1)),
    max_size=14,
).map(lambda rows: detection_table(*rows))


def taken(detections, truths, *areas):
    """Truth and whether it is ignored, at IoU .5, for the first range of areas."""
    matches = match_coco(detections, truths, np.array([0.5]), areas or [(0, np.inf)])
    return matches.truth[0, 0].tolist(), matches.ignored[0, 0].tolist()


class TestByHand:
    def test_second_box_takes_the_next_truth(self):
        """Not so by Pascal VOC's rule."""
        truths, detections = truth_table((0, A), (0, NEAR_A)), detection_table((0, A, 0.8), (0, A, 0.9))
        assert taken(detections, truths) == ([1, 0], [False, False])

    def test_of_truths_equally_near_the_last_is_taken(self):
        truths, detections = truth_table((0, A), (0, A), (1, A)), detection_table((0, A, 0.8), (0, A, 0.7))
        assert taken(detections, truths) == ([1, 0], [False, False])

    def test_a_truth_that_counts_goes_before_a_nearer_one_that_does_not(self):
        truths = truth_table((0, A, 0, True), (0, NEAR_A))
        assert taken(detection_table((0, A, 0.9)), truths) == ([1], [False])
        # a second one takes the difficult, and so does a third: both are left out
        three = detection_table((0, A, 0.9), (0, A, 0.8), (0, A, 0.7), (0, NOWHERE, 0.6))
        assert taken(three, truths) == ([1, 0, 0, -1], [False, True, True, False])

    def test_detections_within_a_crowd_are_left_out(self):
        """A quarter of the crowd's area, and most of the detection's."""
        truths = truth_table((0, (10, 10, 8, 8), 0, True))
        inside, half_out, out = (8, 8, 4, 4), (6, 8, 4, 4), (5, 8, 4, 4)
        detections = detection_table((0, inside, 0.9), (0, half_out, 0.8), (0, out, 0.7))
        assert taken(detections, truths) == ([-1, -1, -1], [False] * 3)  # no IoU of half
        crowd = TruthTable(*list(vars(truths).values())[:4], crowd=truths.difficult)
        assert taken(detections, crowd) == ([0, 0, -1], [True, True, False])

    def test_sizes(self):
        """An object of 32 x 32 is small and medium; what is found elsewhere counts by its own size."""
        square, elsewhere = (100, 100, 32, 32), (300, 300, 33, 33)
        truths, detections = truth_table((0, square)), detection_table((0, square, 0.9), (0, elsewhere, 0.8))
        small, medium, large = (AREAS[size] for size in ("small", "medium", "large"))
        assert taken(detections, truths, small) == ([0, -1], [False, True])
        assert taken(detections, truths, medium) == ([0, -1], [False, False])
        assert taken(detections, truths, large) == ([0, -1], [True, True])

    def test_the_area_of_the_outline_decides(self):
        truths = truth_table((0, (100, 100, 40, 40)))
        thin = TruthTable(*list(vars(truths).values())[:4], area=np.array([500.0]))
        found = detection_table((0, (100, 100, 40, 40), 0.9))
        numbers = [coco_metric(found, some, 1).summary() for some in (truths, thin)]
        assert (numbers[0]["APm"], numbers[1]["APs"]) == (1, 1)
        assert np.isnan([numbers[0]["APs"], numbers[1]["APm"], numbers[1]["APl"]]).all()

    def test_most_detections_of_a_class_in_a_picture(self):
        """Two objects: the first detection finds one, so recall is 1/2 with one of them and 1 with ten."""
        truths = truth_table((0, A), (0, B), (1, A, 1))
        found = detection_table((0, A, 0.9), (0, B, 0.8), (1, A, 0.1, 1))
        numbers = coco_metric(found, truths, 2).summary()
        assert (numbers["AR1"], numbers["AR10"], numbers["AP"]) == (0.75, 1, 1)

    def test_rank(self):
        found = detection_table((0, A, 0.2), (1, A, 0.9), (0, A, 0.5), (0, A, 0.5), (0, A, 0.9, 1))
        assert rank_in_picture(found).tolist() == [2, 0, 0, 1, 0]
        assert rank_in_picture(detection_table()).shape == (0,)

    def test_nothing_at_all(self):
        assert all(
            np.isnan(value) for value in coco_metric(detection_table(), truth_table(), 2).summary().values()
        )
        missed = coco_metric(detection_table(), truth_table((0, A)), 2)
        assert missed.summary()["AP"] == 0 and np.isnan(missed.per_class()).tolist() == [False, True]


def assert_equal_to_pycocotools(detections, truths, classes):
    pytest.importorskip("pycocotools", reason="PYCOCOTOOLS ABSENT: COCO's measure is not checked against it")
    got, want = (f(detections, truths, classes) for f in (coco_metric, product.coco_metric))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    return got


class TestAgainstCocosProgram:
    @given(TRUTHS, FOUND)
    def test_boxes_with_many_ties(self, truths, found):
        assert_equal_to_pycocotools(found, truths, 2)

    @pytest.mark.parametrize("seed", range(4))
    def test_random_pictures(self, seed):
        """Detections near truths and anywhere, more than a hundred of a class in a picture."""
        draw = np.random.default_rng(seed)
        N, D = 60, 1500
        truths = TruthTable(
            draw.integers(0, 4, N),
            np.c_[draw.uniform(0, 400, (N, 2)), draw.lognormal(3.8, 0.8, (N, 2))],
            draw.integers(0, 3, N),
            draw.random(N) < 0.15,
            area=10 ** draw.uniform(2, 5, N),
        )
        of = draw.integers(0, N, D)
        noise = draw.normal(0, 1, (D, 4)) * draw.choice([1.0, 5.0, 60.0], (D, 1))
        found = DetectionTable(
            truths.picture[of], (truths.boxes[of] + noise).clip(1), truths.classes[of] % 2, draw.random(D)
        )
        got = assert_equal_to_pycocotools(found, truths, 3)
        assert 0.1 < got.summary()["AP50"] < 0.9 and not np.isnan(list(got.summary().values())).any()

    def test_recalls_that_numpys_grid_does_not_reach(self):
        """35 of 100 found: numpy.linspace's .35 is a rounding more than 35/100."""
        truths = truth_table(*((i, A) for i in range(100)))
        found = detection_table(*((i, A, 0.5) for i in range(35)))
        got = assert_equal_to_pycocotools(found, truths, 1)
        assert got.summary()["AP"] == pytest.approx(35 / 101)

    def test_of_equal_scores_the_first_picture_counts_first(self):
        found = detection_table((1, NOWHERE, 0.5), (0, A, 0.5))
        assert assert_equal_to_pycocotools(found, truth_table((0, A)), 1).summary()["AP"] == 1

    def test_nothing(self):
        assert_equal_to_pycocotools(detection_table(), truth_table((0, A)), 2)
        assert_equal_to_pycocotools(detection_table((0, A, 0.5)), truth_table(), 2)


def test_without_the_program_the_oracle_counts(monkeypatch):
    for name in ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert not product.has_pycocotools()
    assert product.coco_metric(detection_table((0, A, 0.5)), truth_table((0, A)), 1).summary()["AP"] == 1
