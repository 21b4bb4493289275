"""The networks by name: record for record the original cfg files, and tables for any data set."""

import dataclasses

import pytest

from reference.layers import Conv, Grid, MaxPool, Reorg, Softmax, head_index, output_shapes
from reference.region import Region, WordTree
from tests.golden import DATA
from yolov2.cfg import read_cfg
from yolov2.errors import UserError
from yolov2.presets import NANO_TRUNK, NETWORKS, PRESETS, Recipe
from yolov2.recipes import find_recipe
from yolov2.summary import summary, total_flops

CFG = DATA / "darknet" / "cfg"
OF_DARKNET = [name for name in NETWORKS if not name.endswith("nano")]
REGIONS = [name for name, preset in PRESETS.items() if isinstance(preset.head, Region)]
GRIDS = [name for name in PRESETS if name not in REGIONS]
TREE = WordTree(("a", "b", "c", "d"), (-1, -1, 0, 0))


def test_names():
    assert list(NETWORKS) == [
        *("yolov2-voc", "yolov2", "yolov2-tiny-voc", "yolov2-tiny", "yolo9000", "nano"),
        *("yolov1", "yolov1-tiny", "yolov1-nano"),
        *("darknet19", "darknet19_448", "darknet9000", "tiny", "extraction"),
    ]
    # what `yolov2.train` offers
    assert list(PRESETS) == list(NETWORKS)[: len(PRESETS)]
    assert all(NETWORKS[name] is preset and isinstance(preset, Recipe) for name, preset in PRESETS.items())
    assert all(PRESETS[name].region is PRESETS[name].head for name in REGIONS)
    for name in GRIDS:
        with pytest.raises(UserError, match="no anchors"):
            PRESETS[name].region  # noqa: B018


@pytest.mark.parametrize("name", OF_DARKNET)
def test_the_original_file(name):
    """Every record, the settings of the head and the input; a tree and its map are files of Darknet's."""
    if not CFG.is_dir():
        pytest.skip(f"ORIGINAL CFG FILES ABSENT ({CFG}): presets are held to recorded totals only")
    config, preset = read_cfg(CFG / f"{name}.cfg"), NETWORKS[name]
    head = preset.head
    match config.layers[head_index(config.layers)]:
        case Region(tree=WordTree() as tree, class_map=class_map):
            assert isinstance(head, Region)
            head = dataclasses.replace(head, class_activation="tree", tree=tree, class_map=class_map)
        case Softmax(tree=WordTree() as tree):
            assert head == len(tree.parents)
            head = tree
    assert preset.build(head) == config.layers
    assert config.net.input_shape == (3, preset.imgsz, preset.imgsz)
    if isinstance(preset, Recipe):
        assert preset.jitter == config.head_training.jitter
        assert preset.lr == find_recipe(str(CFG / f"{name}.cfg")).lr
        assert preset.multi_scale == ((320, 608) if config.head_training.multi_scale else None)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_fit_together(name):
    preset = NETWORKS[name]
    layers = preset.build()
    shapes = output_shapes(layers, (3, preset.imgsz, preset.imgsz))
    match preset.head:
        case Region() as region:
            assert layers[-1] is region
            assert shapes[-1] == (region.channels, preset.imgsz // 32, preset.imgsz // 32)
        case Grid() as grid:
            assert layers[-1] is grid
            assert shapes[-1] == (grid.outputs, 1, 1)
        case classes:
            assert layers[head_index(layers)] == Softmax()
            assert shapes[-1] == (classes, 1, 1)


@pytest.mark.parametrize("name", REGIONS)
def test_region_of_other_classes_and_anchors(name):
    preset = NETWORKS[name]
    region = dataclasses.replace(preset.head, anchors=((1.0, 2.0), (3.0, 1.0), (2.0, 2.0)), classes=7)
    layers = preset.build(region)
    assert layers[-1] is region
    assert layers[-2] == Conv(3 * (5 + 7), 1, batch_norm=False, activation="linear")
    assert layers[:-2] == preset.build()[:-2]
    for side in (320, 608):
        assert output_shapes(layers, (3, side, side))[-1] == (36, side // 32, side // 32)


@pytest.mark.parametrize("name", GRIDS)
def test_grid_of_other_classes(name):
    grid = Grid(7, 4, 3)
    layers = NETWORKS[name].build(grid)
    assert layers[-1] is grid
    assert output_shapes(layers, (3, 448, 448))[-1] == (7 * 7 * (3 + 5 * 4), 1, 1)


@pytest.mark.parametrize("name", ["darknet19", "darknet9000", "tiny", "extraction"])
def test_classifier_of_other_classes(name):
    preset = NETWORKS[name]
    assert output_shapes(preset.build(7), (3, 224, 224))[-1] == (7, 1, 1)
    layers = preset.build(TREE)
    assert layers[head_index(layers)] == Softmax(TREE)
    assert output_shapes(layers, (3, 224, 224))[-1] == (4, 1, 1)


def test_nano_follows_the_plan_of_yolov2():
    """Passthrough by reorg, leaky convolutions with batch norm, and a tenth of tiny's work at most."""
    layers = PRESETS["nano"].build()
    assert Reorg(2) in layers and MaxPool() in layers
    assert all(c.batch_norm and c.activation == "leaky" for c in layers[:-2] if isinstance(c, Conv))
    assert total_flops(summary(layers, (3, 416, 416))) < 1e9


def test_nano_of_yolov1_begins_as_that_of_yolov2():
    """So that one classifier seeds both; and its connected layer is no larger than a CPU can train."""
    layers = PRESETS["yolov1-nano"].build()
    assert layers[: len(NANO_TRUNK)] == NANO_TRUNK
    rows = summary(layers, (3, 224, 224))
    assert total_flops(rows) < 0.3e9 and sum(row.learnable for row in rows) < 10e6
