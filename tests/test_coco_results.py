"""Detections in COCO's form: there and back, and into COCO's own program."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.commands import assert_refused, command
from tests.test_detections import noisy
from yolov2.data.coco_results import category_ids, image_ids, read_coco_results, write_coco_results
from yolov2.data.dataset import Dataset
from yolov2.data.sources import open_dataset
from yolov2.detector import Found
from yolov2.errors import Complaints, UserError
from yolov2.evaluate import compare, main
from yolov2.names import COCO_NAMES, VOC_NAMES


@pytest.fixture
def dataset(small_data):
    return open_dataset(small_data, "train")


def test_numbers_of_pictures_and_classes(dataset):
    assert image_ids(dataset.items) == [1, 2, 3, 4, 5, 6]
    own = [
        replace(item, id=id)
        for item, id in zip(dataset.items, ("000000000139", "7", "0", "12"), strict=False)
    ]
    assert image_ids(own) == [139, 7, 0, 12]
    assert image_ids([*own, replace(own[0], id="007")]) == [1, 2, 3, 4, 5]  # 7 twice
    assert category_ids(VOC_NAMES) == list(range(1, 21))
    ids = dict(zip(COCO_NAMES, category_ids(COCO_NAMES), strict=True))
    assert (ids["person"], ids["stop sign"], ids["tvmonitor"], ids["toothbrush"]) == (1, 13, 72, 90)
    spelled = tuple({"aeroplane": "airplane", "tvmonitor": "tv"}.get(name, name) for name in COCO_NAMES)
    assert category_ids(spelled) == list(ids.values())


def test_there_and_back(dataset, tmp_path):
    found, path = noisy(dataset), tmp_path / "results.json"
    write_coco_results(path, dataset, found, dataset.names)
    again = read_coco_results(path, dataset.items, dataset.names, Complaints())
    for one, other in zip(found, again, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-5)
        np.testing.assert_array_equal(one.scores, other.scores.astype(np.float32))
        np.testing.assert_array_equal(one.classes, other.classes)
    nothing = [Found(*(column[:0] for column in f[:3])) for f in found]
    write_coco_results(path, dataset, nothing, dataset.names)
    again = read_coco_results(path, dataset.items, dataset.names, Complaints())
    assert [f.boxes.shape for f in again] == [(0, 4)] * 6


def test_cocos_program_reads_it_and_gets_the_same_numbers(dataset, tmp_path):
    tools = pytest.importorskip(
        "pycocotools.coco", reason="PYCOCOTOOLS ABSENT: nobody else reads the results"
    )
    from pycocotools.cocoeval import COCOeval

    hard = [replace(item, difficult=np.array([i == 3])) for i, item in enumerate(dataset.items)]
    dataset, path = Dataset(dataset.names, hard), tmp_path / "results.json"
    found = noisy(dataset)
    write_coco_results(path, dataset, found, dataset.names)
    with contextlib.redirect_stdout(io.StringIO()):
        truths = tools.COCO(str(tmp_path / "results.truths.json"))
        program = COCOeval(truths, truths.loadRes(str(path)), "bbox")
        program.evaluate(), program.accumulate(), program.summarize()
    assert truths.loadImgs([2])[0]["file_name"] == dataset.items[1].path.name
    ours = compare(dataset, found, dataset.names, "coco")
    want = np.where(program.stats < 0, np.nan, program.stats)
    np.testing.assert_allclose(list(ours.coco.summary().values()), want, atol=1e-9)
    assert ours.map50 == pytest.approx(program.stats[1]) and 0 < ours.map50 < 1


class TestCommand:
    def test_results_of_another_tool(self, dataset, small_data, tmp_path, capsys):
        """COCO's own measure of a COCO file on data of another format."""
        path, names, out = tmp_path / "results.json", tmp_path / "some.names", tmp_path / "out"
        write_coco_results(path, dataset, noisy(dataset), dataset.names)
        names.write_text("blue\nred\n")
        flags = ("--detections", path, "--data", small_data, "--names", names, "--split", "train")
        assert command(main, *flags, "--method", "coco", "--format", "voc", "--out", out) == 0
        said = capsys.readouterr().out
        numbers = json.loads((out / "metrics.json").read_text())
        assert f"AP  .5:.95  all         100  {numbers['coco']['AP']:.4f}" in said
        assert "COCO 101-point" in said and "continuous overlap" in said
        assert numbers["coco"]["APl"] is None  # no object is large
        assert numbers["map50"] == numbers["coco"]["AP50"]
        again = json.loads((out / "coco_results.json").read_text())
        assert len(again) == len(json.loads(path.read_text()))

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{}", "not a list"),
            ("[", "not a json file"),
            ("[" * 100000, "not a json file"),
            ("[3]", "entry 0"),
            (
                '[{"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}]',
                "category_ids 1 to 2",
            ),
            ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5], "score": 0.5}]', "entry 0"),
            ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, -5], "score": 0.5}]', "entry 0"),
            ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": NaN}]', "entry 0"),
            (
                '[{"image_id": 9, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]',
                "none of them among the 6",
            ),
        ],
    )
    def test_malformed(self, dataset, tmp_path, text, why):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(UserError, match=rf"r\.json: .*{why}"):
            read_coco_results(tmp_path / "r.json", dataset.items, dataset.names, Complaints())

    def test_refused(self, small_data, tmp_path, capsys):
        flags = ("--detections", tmp_path / "r.json", "--data", small_data)
        assert_refused(capsys, main, *flags, "--imgsz", "64", names=("--imgsz",))
        inclusive = ("--method", "coco", "--overlap", "inclusive")
        assert_refused(capsys, main, *flags, *inclusive, names=("--overlap",))
