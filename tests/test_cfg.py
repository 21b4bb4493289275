"""Reading Darknet's network files: the grammar, the defaults, the original files, and complaints."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.layers import (
    AvgPool,
    Connected,
    Conv,
    Dropout,
    Grid,
    Local,
    MaxPool,
    Reorg,
    Route,
    Softmax,
    output_shapes,
)
from reference.region import Region
from reference.schedule import Schedule
from tests.golden import DATA
from yolov2.cfg import Config, HeadTraining, Net, read_cfg
from yolov2.weights import parameter_shapes

SMALL = """
# a comment
; another
[net]
width = 64
height\t= 32
channels=3
batch=64
batch=1
learning_rate=.01
policy=steps
steps=-1, 100
scales=.1, 10
hue = .1

[convolutional]
batch_normalize=1
filters=8   # numbers are read as far as they go
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=2
[route]
layers=-1, 0
[reorg]
stride=2
[dropout]
[avg]
[conn]
output=5
[soft]
"""


def test_grammar():
    config = read_cfg(SMALL)
    schedule = Schedule(0.01, "steps", steps=(-1, 100), scales=(0.1, 10.0))
    # the first batch= wins; crops default to the width and twice the width
    assert config.net == Net(64, 32, 3, batch=64, schedule=schedule, hue=0.1, min_crop=64, max_crop=128)
    assert config.net.input_shape == (3, 32, 64)
    assert config.head_training == HeadTraining()
    assert config.layers == [
        Conv(8, 3, stride=2),
        MaxPool(2, 2),
        Route((-1, 0)),
        Reorg(2),
        Dropout(0.5),
        AvgPool(),
        Connected(5, "logistic"),
        Softmax(),
    ]


def layer(text):
    """The layer that one section describes."""
    (record,) = read_cfg(f"[net]\n{text}").layers
    return record


def test_defaults_are_darknets():
    assert read_cfg("[network]\n") == Config(Net(), [], HeadTraining())
    assert layer("[conv]") == Conv(1, 1, 1, batch_norm=False, activation="logistic")
    assert layer("[local]") == Local(1, 1, 1, 0, "logistic")
    assert layer("[maxpool]") == MaxPool(1, 1)
    assert layer("[max]\nstride=2") == MaxPool(2, 2)
    assert layer("[reorg]") == Reorg(1)
    scales = {"object_scale": 1, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
    region = Region(
        ((0.5, 0.5),), 20, "logistic", ignore_threshold=0.5, rescore=False, bias_match=False, **scales
    )
    assert layer("[region]") == region
    grid = Grid(7, 1, 1, sqrt=False, rescore=False, object_scale=1, noobject_scale=1, coord_scale=1)
    assert layer("[detection]\ncoords=4") == grid


@pytest.mark.parametrize(("pad", "padding"), [(0, 0), (0, 2), (1, 2)])
def test_pad_is_a_flag_and_padding_a_number(pad, padding):
    want = 3 // 2 if pad else padding
    assert layer(f"[conv]\nsize=3\npad={pad}\npadding={padding}").padding == want


def test_region_with_tree_and_map(tmp_path):
    (tmp_path / "a.tree").write_text("animal -1\nthing -1\ndog 0\ncat 0\n")
    (tmp_path / "a.map").write_text("2\n1\n")
    region = "anchors=1,2, 3,4\nnum=2\nclasses=4\nsoftmax=1\ntree=a.tree\nmap=a.map"
    training = "jitter=.3\nrandom=1\nmax=5"
    config = read_cfg(f"[net]\n[region]\n{region}\n{training}", root=tmp_path)
    (region,) = config.layers
    assert region.anchors == ((1, 2), (3, 4))
    assert region.class_activation == "tree"
    assert region.tree.parents == (-1, -1, 0, 0)
    assert region.class_map == (2, 1)
    assert config.head_training == HeadTraining(0.3, True, 5)


def test_a_file_a_path_and_its_text_read_alike(tmp_path):
    file = tmp_path / "small.cfg"
    file.write_bytes(SMALL.replace("\n", "\r\n").encode())  # a DOS file does no harm
    assert read_cfg(file) == read_cfg(str(file)) == read_cfg(SMALL)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n", r"line 1: there is no \[net\]"),
        ("[conv]\n", r"line 1: the first section must be \[net\], not \[conv\]"),
        ("batch=1\n[net]", "line 1: 'batch=1' is not a"),
        ("[net]\nbatch 1", "line 2: 'batch 1' is not a"),
        ("[net]\n=1", "line 2: '=1' is not a"),
        ("[net]\n[conv", r"line 2: '\[conv' is not a \[section\]"),
        ("[net]\n\n[shortcut]", r"line 3, \[shortcut\]: unknown layer type; known are convolutional"),
        ("[net]\nbatch=many", r"line 2, \[net\]: batch=many is not made of numbers"),
        ("[net]\npolicy=random", r"line 1, \[net\]: policy: 'random'"),
        ("[net]\nsubdivisions=0", r"line 1, \[net\]: subdivisions: 0 is not positive"),
        ("[net]\n[conv]\nactivation=mish", r"line 2, \[conv\]: activation: 'mish'"),
        ("[net]\n[conv]\nflipped=1", r"line 2, \[conv\]: flipped: only 0"),
        ("[net]\n[route]", r"line 2, \[route\]: layers"),
        ("[net]\n[route]\nlayers=-1,,2", r"line 3, \[route\]: layers=-1,,2 is not"),
        ("[net]\n[soft]\ngroups=2", r"line 2, \[soft\]: groups: only 1"),
        ("[net]\n[region]\nanchors=1,2,3\nnum=2", r"line 2, \[region\]: anchors: 3 numbers for num=2"),
        ("[net]\n[region]\nanchors=0,2", r"line 2, \[region\]: anchors: \(0.0, 2.0\)"),
        ("[net]\n[region]\ncoords=5", r"line 2, \[region\]: coords: only 4"),
        # a random responsible box, which nothing here trains; [region] means changing input sizes by it
        ("[net]\n[detection]\ncoords=4\nrandom=1", r"line 2, \[detection\]: random: only 0 is supported"),
        ("[net]\n[cost]\n[avg]", r"line 2, \[cost\]: only supported as the last"),
    ],
)
def test_complaints_name_line_and_section(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_cfg(text)


def test_broken_tree_files_name_the_section(tmp_path):
    (tmp_path / "a.tree").write_text("animal\n")
    with pytest.raises(ValueError, match=r"^line 2, \[soft\]: line 1: 'animal' is not 'name parent'"):
        read_cfg("[net]\n[soft]\ntree=a.tree", root=tmp_path)


def test_keys_that_nobody_reads_are_told():
    with pytest.warns(UserWarning, match=r"line 3, \[conv\]: batchnormalize is not used"):
        read_cfg("[net]\n[conv]\nbatchnormalize=1")


@given(
    st.lists(st.sampled_from(["[net]", "[conv]", "[region]", "size=", "=", "3", "x", ",", "\n", "[", "#"]))
)
def test_any_text_is_read_or_refused(pieces):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_cfg("".join(pieces) + "\n")
        except ValueError as problem:
            assert str(problem).startswith("line ")


# (input as in the file, floats in the weights file): the table of SPEC 21
ORIGINALS = {
    "yolov2-voc": (416, 50_676_061),
    "yolov2": (608, 50_983_561),
    "yolov2-tiny-voc": (416, 15_867_885),
    "yolov2-tiny": (416, 11_237_145),
    "darknet19": (256, 20_856_776),
    "darknet19_448": (448, 20_856_776),
    "yolo9000": (544, 48_807_501),
    "darknet9000": (448, 29_485_226),
    "yolov1": (448, 197_328_243),
    "yolov1-tiny": (448, 27_099_950),
}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"ORIGINAL CFG FILES ABSENT: {DATA} does not exist")
@pytest.mark.parametrize("name", ORIGINALS)
def test_original_files(name):
    side, floats = ORIGINALS[name]
    folder = DATA / "darknet"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every key of theirs is understood
        config = read_cfg(folder / "cfg" / f"{name}.cfg", root=folder)
    assert config.net.input_shape == (3, side, side)
    shapes = parameter_shapes(config.layers, config.net.input_shape)
    assert sum(int(np.prod(shape)) for arrays in shapes for shape in arrays.values()) == floats
    last = output_shapes(config.layers, config.net.input_shape)[-1]
    match config.layers[-1]:
        case Region() as region:
            assert last == (region.channels, side // 32, side // 32)
        case Grid() as grid:
            assert last == (grid.outputs, 1, 1)
        case Softmax() as softmax:
            assert last == (len(softmax.tree.parents) if softmax.tree else 1000, 1, 1)
