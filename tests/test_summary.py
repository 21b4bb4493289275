"""Costs and shapes of networks: every row and every total of SPEC 21, layers by hand, and the command."""

import json
import re
import subprocess
import sys

import pytest

from reference.layers import (
    BatchNorm,
    Connected,
    Conv,
    Cost,
    Crop,
    Dropout,
    Grid,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
)
from reference.region import Region, WordTree
from tests.commands import assert_refused, command
from tests.golden import DATA, SHARED
from yolov2.presets import NETWORKS
from yolov2.summary import describe, main, summary, table, to_plain, total_flops

SPEC = SHARED / "SPEC.md"
# name, side, BFLOP, learnable, floats in the file
TOTALS = [
    ("yolov2-voc", 416, 29.360, 50_655_389, 50_676_061),
    ("yolov2", 416, 29.464, 50_962_889, 50_983_561),
    ("yolov2", 608, 62.938, 50_962_889, 50_983_561),
    ("yolov2-tiny-voc", 416, 6.971, 15_861_773, 15_867_885),
    ("yolov2-tiny", 416, 5.406, 11_232_057, 11_237_145),
    ("darknet19", 224, 5.582, 20_842_376, 20_856_776),
    ("darknet19", 256, 7.291, 20_842_376, 20_856_776),
    ("darknet19_448", 448, 22.328, 20_842_376, 20_856_776),
    ("yolo9000", 544, 49.062, 48_793_101, 48_807_501),
    ("darknet9000", 448, 25.707, 29_470_826, 29_485_226),
    ("yolov1", 448, 40.190, 197_301_875, 197_328_243),
    ("yolov1-tiny", 448, 3.216, 27_095_374, 27_099_950),
    ("yolov2-voc", 288, 14.072, 50_655_389, 50_676_061),
    ("yolov2-voc", 352, 21.021, 50_655_389, 50_676_061),
    ("yolov2-voc", 480, 39.089, 50_655_389, 50_676_061),
    ("yolov2-voc", 544, 50.208, 50_655_389, 50_676_061),
]
LAYER_TABLES = [
    *("yolov2-voc at 416x416", "yolov2 at 416x416", "yolov2-tiny-voc at 416x416", "yolov2-tiny at 416x416"),
    *("darknet19 at 224x224", "yolo9000 at 544x544", "yolov1 at 448x448"),
]


def rows_of(name, side):
    return summary(NETWORKS[name].build(), (3, side, side))


@pytest.mark.parametrize("name, side, bflop, learnable, stored", TOTALS)
def test_totals(name, side, bflop, learnable, stored):
    rows = rows_of(name, side)
    assert round(total_flops(rows) / 1e9, 3) == bflop
    assert sum(row.learnable for row in rows) == learnable
    assert sum(row.stored for row in rows) == stored
    last = f"{bflop:.3f} BFLOP, {learnable:,} learnable parameters, {stored:,} floats in a weights file"
    assert table(rows).splitlines()[-1] == last


@pytest.mark.skipif(not SPEC.is_file(), reason=f"TABLES ABSENT: {SPEC} does not exist")
class TestSpecification:
    def test_totals_are_those_of_the_large_table(self):
        chapter = SPEC.read_text().split("## 21. Tables")[1].split("### ")[0]
        written = [
            (name, f"{side}x{side}", f"{bflop:.3f}", f"{learnable:,}", f"{stored:,}")
            for name, side, bflop, learnable, stored in TOTALS
        ]
        assert cells(chapter, r"(?:yolo|darknet)\S+") == written

    def test_no_table_is_left_out(self):
        chapter = SPEC.read_text().split("## 21. Tables")[1]
        sections = chapter.split("### ")[1:]
        titles = [section.splitlines()[0] for section in sections if cells(section, r"\d+")]
        assert titles == LAYER_TABLES
        assert len(sections) == len(TOTALS)

    @pytest.mark.parametrize("title", LAYER_TABLES)
    def test_every_layer(self, title):
        name, side = re.fullmatch(r"(\S+) at (\d+)x\2", title).groups()
        section = SPEC.read_text().split(f"### {title}\n")[1].split("### ")[0]
        ours = [
            (str(index), *describe(row, index), f"{row.flops / 1e9:.3f}", str(row.learnable))
            for index, row in enumerate(rows_of(name, int(side)))
        ]
        assert ours == cells(section, r"\d+")


def cells(text, first):
    """Rows of a table in Markdown whose first cell is of the form `first`."""
    lines = [line for line in text.splitlines() if re.match(rf"\| {first} \|", line)]
    return [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines]


def test_one_convolution_by_hand():
    # 3x3 over 2 channels, 4 filters, on 5x6: 72 weights used at 30 places; 4 biases, 4 scales, 8 statistics
    (row,) = summary([Conv(4)], (2, 6, 5))
    assert row[1:] == ((4, 6, 5), 2 * 72 * 30, 72 + 8, 72 + 16)
    # two groups see one channel each; the bias is all there is beside the weights
    (row,) = summary([Conv(4, groups=2, batch_norm=False)], (2, 6, 5))
    assert row[1:] == ((4, 6, 5), 2 * 36 * 30, 36 + 4, 36 + 4)


def test_local_layers_are_listed_and_not_counted():
    # 3 filters of 3x3 over 2 channels, others at each of 30 places; a bias for every output
    rows = summary([Local(3), Connected(2)], (2, 6, 5))
    assert rows[0][1:] == ((3, 6, 5), 2 * 54 * 30, 54 * 30 + 90, 54 * 30 + 90)
    assert total_flops(rows) == rows[1].flops == 2 * 90 * 2


def test_batch_norm_alone_learns_scales():
    (row,) = summary([BatchNorm()], (4, 6, 5))
    assert row[1:] == ((4, 6, 5), 0, 4, 12)


TREE = WordTree(("a", "b", "c", "d", "e", "f"), (-1, -1, 0, 0, 1, 1))
WORDS = [  # a layer on 4x8x6, and what the table says of it
    (Conv(32), ("conv", "32 3x3/1 BN leaky", "4x8x32")),
    (Conv(6, 1, 2, 0, False, "linear"), ("conv", "6 1x1/2 linear", "2x4x6")),
    (Conv(4, groups=2), ("conv", "4 3x3/1 BN leaky 2 groups", "4x8x4")),
    (Local(5, 1, 2, 0), ("local", "5 1x1/2", "2x4x5")),
    (Connected(9), ("connected", "9", "1x1x9")),
    (BatchNorm(), ("batchnorm", "", "4x8x6")),
    (MaxPool(3, 2), ("maxpool", "3x3/2", "2x4x6")),
    (Upsample(3), ("upsample", "x3", "12x24x6")),
    (Upsample(2, 0.5), ("upsample", "x2 times 0.5", "8x16x6")),
    (Reorg(2, order="space_to_depth"), ("reorg", "/2", "2x4x24")),
    (Dropout(), ("dropout", "", "4x8x6")),
    (Crop(5, 3), ("crop", "3x5 to -1..1", "3x5x6")),
    (Crop(5, 3, adjust=False), ("crop", "3x5", "3x5x6")),
    (Cost("masked"), ("cost", "masked", "192")),
    (Cost("L1", 0.5), ("cost", "L1 times 0.5", "192")),
    (Softmax(), ("softmax", "", "192")),
    (Region(((1.0, 1.0),), 1), ("region", "", "192")),
    (Grid(4, 2, 2), ("detection", "", "192")),
]


@pytest.mark.parametrize(("layer", "words"), WORDS)
def test_words(layer, words):
    (row,) = summary([layer], (6, 8, 4))
    assert describe(row, 0) == words


def test_words_of_layers_that_look_back():
    layers = [Conv(2), Conv(2), Shortcut(-2), Shortcut(0, "leaky", 0.5, 2.0), Route((-1, 0))]
    found = [describe(row, i)[:2] for i, row in enumerate(summary(layers, (2, 4, 4)))]
    assert found[2:] == [
        ("shortcut", "from 0 linear"),
        ("shortcut", "from 0 alpha 0.5 beta 2 leaky"),
        ("route", ""),
    ]


def test_words_of_trees_and_reorg_backwards():
    assert describe(summary([Softmax(TREE)], (6, 1, 1))[0], 0) == ("softmax", "3 groups", "6")
    assert describe(summary([Reorg(2, True)], (8, 1, 3))[0], 0) == ("reorg", "x2", "6x2x2")


def test_plain_values_are_those_of_the_rows():
    rows = rows_of("yolov1", 448)
    plain = json.loads(json.dumps(to_plain(rows)))
    assert plain["flops"] == total_flops(rows)
    assert (plain["learnable"], plain["stored"]) == (197_301_875, 197_328_243)
    assert plain["layers"][28] == {
        "kind": "local",
        "detail": "256 3x3/1",
        "output": [256, 7, 7],
        "flops": rows[28].flops,
        "learnable": 115_618_048,
        "stored": 115_618_048,
    }
    assert [tuple(layer["output"]) for layer in plain["layers"]] == [row.output for row in rows]


class TestCommand:
    def test_table(self, capsys):
        assert command(main) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 34
        assert lines[1].split() == ["0", "conv", "32", "3x3/1", "BN", "leaky", "416x416x32", "0.299", "928"]
        assert lines[28].split() == ["27", "reorg", "/2", "13x13x256", "0.000", "0"]
        assert lines[32].split() == ["31", "region", "21125", "0.000", "0"]
        assert lines[-1].startswith("29.360 BFLOP, 50,655,389 learnable parameters, 50,676,061 floats")
        assert len({len(line) for line in lines[:-1]}) == 1  # columns

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_name(self, name, capsys):
        assert command(main, "--model", name) == 0
        assert capsys.readouterr().out.strip() == table(rows_of(name, NETWORKS[name].imgsz)).strip()

    def test_json(self, capsys):
        assert command(main, "--model", "yolov1-tiny", "--imgsz", "448", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["model"], found["input"]) == ("yolov1-tiny", [3, 448, 448])
        assert (found["learnable"], found["stored"]) == (27_095_374, 27_099_950)
        assert found["layers"][-1]["kind"] == "detection"

    def test_a_cfg_file(self, tmp_path, capsys):
        file = tmp_path / "n.cfg"
        file.write_text("[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=2\nsize=1\n")
        assert command(main, "--model", file, "--imgsz", "16") == 0
        assert "16x16x2" in capsys.readouterr().out
        file.write_text("[net]\nwidth=8\nheight=8\ncolour=3\n[convolutional]\nfilters=2\nsize=1\n")
        call = [sys.executable, "-m", "yolov2.summary", "--model", str(file)]  # pytest would keep the warning
        printed = subprocess.run(call, capture_output=True, text=True, check=True)
        assert printed.stdout.splitlines()[1].split()[-1] == "8"  # 2 filters of 3 channels, 2 biases
        assert printed.stderr == f"warning: {file}: line 4, [net]: colour is not used\n"
        file.write_text("[net]\n[tansformer]\n")
        assert_refused(capsys, main, "--model", file, names=("n.cfg", "line 2", "tansformer"))
        file.write_text("[net]\n[convolutional]\n")
        assert_refused(capsys, main, "--model", file, names=("n.cfg", "--imgsz"))

    @pytest.mark.skipif(not DATA.is_dir(), reason=f"ORIGINAL CFG FILES ABSENT: {DATA} does not exist")
    def test_a_cfg_file_that_names_a_tree(self, capsys):
        assert command(main, "--model", DATA / "darknet" / "cfg" / "darknet9000.cfg") == 0
        assert "25.707 BFLOP" in capsys.readouterr().out

    def test_refused(self, tmp_path, capsys):
        line = assert_refused(capsys, main, "--model", "yolov9")
        assert all(name in line for name in ("yolov9", *NETWORKS))
        assert_refused(capsys, main, "--model", tmp_path, names=(tmp_path,))
        assert_refused(capsys, main, "--imgsz", "100", names=("yolov2-voc", "layer"))
        assert_refused(capsys, main, "--imgsz", "0", names=("yolov2-voc", "layer 0"))
