"""The published networks: their costs and shapes (SPEC 21), and record for record the original cfg files."""

import dataclasses
import re
from functools import cache

import pytest

from reference.layers import Conv, MaxPool, Reorg
from reference.region import Region
from tests.commands import assert_refused, command
from tests.golden import DATA, SHARED
from yolov2.cfg import read_cfg
from yolov2.presets import PRESETS, darknet19
from yolov2.summary import main, summary, table, total_flops

CFG = DATA / "darknet" / "cfg"


def layers_of(name):
    return darknet19() if name == "darknet19" else PRESETS[name].build(PRESETS[name].region)


@pytest.mark.parametrize(
    "name, side, bflop, learnable, stored",
    [
        ("yolov2-voc", 416, 29.360, 50_655_389, 50_676_061),
        ("yolov2-voc", 288, 14.072, 50_655_389, 50_676_061),
        ("yolov2-voc", 352, 21.021, 50_655_389, 50_676_061),
        ("yolov2-voc", 480, 39.089, 50_655_389, 50_676_061),
        ("yolov2-voc", 544, 50.208, 50_655_389, 50_676_061),
        ("yolov2", 416, 29.464, 50_962_889, 50_983_561),
        ("yolov2", 608, 62.938, 50_962_889, 50_983_561),
        ("yolov2-tiny-voc", 416, 6.971, 15_861_773, 15_867_885),
        ("yolov2-tiny", 416, 5.406, 11_232_057, 11_237_145),
        ("darknet19", 224, 5.582, 20_842_376, 20_856_776),
        ("darknet19", 256, 7.291, 20_842_376, 20_856_776),
        ("darknet19", 448, 22.328, 20_842_376, 20_856_776),
    ],
)
def test_totals(name, side, bflop, learnable, stored):
    rows = summary(layers_of(name), (3, side, side))
    assert round(total_flops(rows) / 1e9, 3) == bflop
    assert sum(row.learnable for row in rows) == learnable
    assert sum(row.stored for row in rows) == stored


def test_one_layer_by_hand():
    # 3x3 over 2 channels, 4 filters, on 5x6: 72 weights used at 30 places; 4 biases, 4 scales, 8 statistics
    (row,) = summary([Conv(4)], (2, 6, 5))
    assert row[1:] == ((4, 6, 5), 2 * 72 * 30, 72 + 8, 72 + 16)
    # two groups see one channel each; the bias is all there is beside the weights
    (row,) = summary([Conv(4, groups=2, batch_norm=False)], (2, 6, 5))
    assert row[1:] == ((4, 6, 5), 2 * 36 * 30, 36 + 4, 36 + 4)


@pytest.mark.parametrize("name", PRESETS)
def test_the_grid_is_a_32nd_of_the_input(name):
    preset = PRESETS[name]
    rows = summary(preset.build(preset.region), (3, 416, 416))
    assert rows[-1].output == (preset.region.channels, 13, 13)
    for side in (320, 608):
        assert summary(preset.build(preset.region), (3, side, side))[-1].output[1:] == (side // 32,) * 2


@pytest.mark.parametrize("name", PRESETS)
def test_other_classes_and_anchors(name):
    region = dataclasses.replace(
        PRESETS[name].region, anchors=((1.0, 2.0), (3.0, 1.0), (2.0, 2.0)), classes=7
    )
    *_, head, last = PRESETS[name].build(region)
    assert last is region
    assert head == Conv(3 * (5 + 7), 1, batch_norm=False, activation="linear")


def test_nano_follows_the_plan_of_yolov2():
    """Passthrough by reorg, leaky convolutions with batch norm, and a tenth of tiny's work at most."""
    layers = layers_of("nano")
    assert Reorg(2) in layers and MaxPool() in layers
    assert all(c.batch_norm and c.activation == "leaky" for c in layers[:-2] if isinstance(c, Conv))
    assert total_flops(summary(layers, (3, 416, 416))) < 1e9


class TestOriginalFiles:
    """Against the cfg files and the tables of SPEC 21 beside the project."""

    @pytest.fixture(autouse=True)
    def needs_files(self):
        if not CFG.is_dir():
            pytest.skip(f"ORIGINAL CFG FILES ABSENT ({CFG}): presets are held to recorded totals only")

    @pytest.mark.parametrize("name", ["yolov2-voc", "yolov2", "yolov2-tiny-voc", "yolov2-tiny"])
    def test_detectors(self, name):
        config = read_cfg(CFG / f"{name}.cfg")
        preset = PRESETS[name]
        assert preset.build(preset.region) == config.layers  # the region's settings are in its record
        assert preset.jitter == config.head_training.jitter

    @pytest.mark.parametrize("name", ["darknet19", "darknet19_448"])
    def test_classifier(self, name):
        assert darknet19() == read_cfg(CFG / f"{name}.cfg").layers

    @pytest.mark.parametrize(
        "title",
        [
            *("yolov2-voc at 416x416", "yolov2 at 416x416", "yolov2-tiny-voc at 416x416"),
            *("yolov2-tiny at 416x416", "darknet19 at 224x224", "yolov1 at 448x448"),
        ],
    )
    def test_every_row_of_the_published_tables(self, title):
        name, size = title.split(" at ")
        side = int(size.split("x")[0])
        layers = read_cfg(CFG / "yolov1.cfg").layers if name == "yolov1" else layers_of(name)
        rows = summary(layers, (3, side, side))
        published = spec_table(title)
        assert len(rows) == len(published)
        for row, (kind, output, bflop, learnable) in zip(rows, published, strict=True):
            assert type(row.layer).__name__.lower() == {"detection": "grid"}.get(kind, kind)
            c, h, w = row.output
            assert output in (f"{w}x{h}x{c}", str(w * h * c))
            assert (f"{row.flops / 1e9:.3f}", row.learnable) == (bflop, int(learnable))

    @pytest.mark.parametrize("name, side, bflop, learnable, stored", [
        ("yolov1", 448, 40.190, 197_301_875, 197_328_243),
        ("yolov1-tiny", 448, 3.216, 27_095_374, 27_099_950),
    ])  # fmt: skip
    def test_totals_of_yolov1(self, name, side, bflop, learnable, stored):
        rows = summary(read_cfg(CFG / f"{name}.cfg").layers, (3, side, side))
        assert round(total_flops(rows) / 1e9, 3) == bflop
        assert (sum(r.learnable for r in rows), sum(r.stored for r in rows)) == (learnable, stored)


@cache
def spec_table(title):
    """Rows (kind, output, BFLOP, learnable) of one table of SPEC 21."""
    section = (SHARED / "SPEC.md").read_text().split(f"### {title}\n")[1].split("###")[0]
    cells = [line.strip("| ").split("|") for line in section.splitlines() if re.match(r"\| \d", line)]
    return [(c[1].strip(), c[3].strip(), c[4].strip(), c[5].strip()) for c in cells]


class TestCommand:
    def test_table(self, capsys):
        assert command(main) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 34
        assert lines[1].split() == ["0", "conv", "32", "3x3/1", "BN", "leaky", "416x416x32", "0.299", "928"]
        assert lines[28].split() == ["27", "reorg", "/2", "13x13x256", "0.000", "0"]
        assert lines[-1].startswith("29.360 BFLOP, 50,655,389 learnable parameters, 50,676,061 floats")

    def test_a_cfg_file(self, tmp_path, capsys):
        (tmp_path / "n.cfg").write_text(
            "[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=2\nsize=1\n"
        )
        assert command(main, "--model", tmp_path / "n.cfg", "--imgsz", "16") == 0
        assert "16x16x2" in capsys.readouterr().out
        (tmp_path / "n.cfg").write_text(
            "[net]\nwidth=8\nheight=8\nchannels=3\ncolour=3\n[convolutional]\nfilters=2\nsize=1\n"
        )
        assert command(main, "--model", tmp_path / "n.cfg") == 0
        line = f"warning: {tmp_path / 'n.cfg'}: line 5, [net]: colour is not used\n"
        assert capsys.readouterr().err == line
        (tmp_path / "n.cfg").write_text("[net]\n[tansformer]\n")
        assert_refused(capsys, main, "--model", tmp_path / "n.cfg", names=("n.cfg", "line 2", "tansformer"))

    def test_refused(self, capsys):
        assert_refused(capsys, main, "--model", "yolov9", names=("yolov9", "yolov2-voc"))
        assert_refused(capsys, main, "--imgsz", "100", names=("yolov2-voc", "layer"))

    def test_table_of_the_smallest_network(self):
        region = Region(((1.0, 1.0),), 1)
        text = table(summary([Conv(6, 1, batch_norm=False, activation="linear"), region], (3, 1, 1)))
        assert text.splitlines()[1].split()[:4] == ["0", "conv", "6", "1x1/1"]
