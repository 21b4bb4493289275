"""Darknet's network files, both ways: the grammar, the defaults, the original files, and complaints."""

import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Cost,
    CostKind,
    Crop,
    Dropout,
    Grid,
    Local,
    MaxPool,
    Reorg,
    ReorgOrder,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    head_index,
    output_shapes,
)
from reference.region import BoxWeight, ClassLoss, Location, Region, WordTree
from reference.schedule import Policy, Schedule
from tests.golden import DATA
from yolov2.cfg import Config, HeadTraining, Net, cfg_text, limited_shapes, read_cfg, write_cfg
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
layers=-1, 1
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
        Route((-1, 1)),
        Reorg(2),
        Dropout(0.5),
        AvgPool(),
        Connected(5, "logistic"),
        Softmax(),
    ]


def shortened(parameter):
    """The name of a test, where its parameter has megabytes."""
    return repr(parameter[:50])


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
        ("[net]\n\n[yolo]", r"line 3, \[yolo\]: unknown layer type; known are convolutional"),
        ("[net]\nbatch=many", r"line 2, \[net\]: batch=many is not made of numbers"),
        ("[net]\npolicy=random", r"line 1, \[net\]: policy: 'random'"),
        ("[net]\nsubdivisions=0", r"line 1, \[net\]: subdivisions: 0 is not positive"),
        ("[net]\n[conv]\nactivation=mish", r"line 2, \[conv\]: activation: 'mish'"),
        ("[net]\n[conv]\ndontload=1", r"line 2, \[conv\]: dontload: only 0"),
        ("[net]\n[conv]\npadding=-1", r"line 2, \[conv\]: padding: -1 is negative"),
        ("[net]\n[conv]\nsize=9999999999999999999", r"line 2, \[conv\]: size: 99.* is too large"),
        ("[net]\n[region]\nthresh=1e999", r"line 2, \[region\]: thresh: 1e999 is too large"),
        ("[net]\n[region]\nnum=99999999", r"line 2, \[region\]: num: 99999999 is more than 1000"),
        ("[net]\n[soft]\ntree=no.tree", r"line 2, \[soft\]: tree: there is no file no.tree in /"),
        ("[net]\n[soft]\ntree=/dev/zero", r"line 2, \[soft\]: tree: there is no file"),
        ("[net]\n[shortcut]", r"line 2, \[shortcut\]: from"),
        (
            "[net]\n[reorg]\norder=upside_down",
            r"line 2, \[reorg\]: order: 'upside_down' is not one of darknet,",
        ),
        ("[net]\n[dropout]\nprobability=2", r"line 2, \[dropout\]: probability: 2.0 is not from 0 to 1"),
        ("[net]\n[cost]\ntype=hinge", r"line 2, \[cost\]: type: 'hinge'"),
        ("[net]\n[region]\n[avg]", r"line 2, \[region\]: only supported as the last"),
        ("[net]\n[route]", r"line 2, \[route\]: layers"),
        ("[net]\n[route]\nlayers=-1,,2", r"line 3, \[route\]: layers=-1,,2 is not"),
        ("[net]\n[soft]\ngroups=2", r"line 2, \[soft\]: groups: only 1"),
        ("[net]\n[region]\nanchors=1,2,3\nnum=2", r"line 2, \[region\]: anchors: 3 numbers for num=2"),
        ("[net]\n[region]\nanchors=0,2", r"line 2, \[region\]: anchors: \(0.0, 2.0\)"),
        ("[net]\n[region]\ncoords=5", r"line 2, \[region\]: coords: only 4"),
        # a random responsible box, which nothing here trains; [region] means changing input sizes by it
        ("[net]\n[detection]\ncoords=4\nrandom=1", r"line 2, \[detection\]: random: only 0 is supported"),
        ("[net]\n[cost]\n[avg]", r"line 2, \[cost\]: only supported as the last"),
        # numbers are Darknet's: ASCII, int and float
        ("[net]\n[conv]\nsize=2147483648", r"line 2, \[conv\]: size: 2147483648 is too large"),
        ("[net]\n[upsample]\nscale=1e39", r"line 2, \[upsample\]: scale: 1e39 is too large"),
        ("[net]\nbatch=\u0663", "line 2, .*: batch=\u0663 is not made of numbers"),
        ("[net]\n[region]\nclasses=1000001", r"classes: 1000001 is more than 1000000, the most that is"),
        ("[net]\n[detection]\ncoords=4\nclasses=1000001", r"classes: 1000001 is more than 1000000"),
        ("[net]\nsteps=" + 10_000 * "1," + "1", r"line 2, \[net\]: steps: 10,001 numbers; at most 10,000$"),
        ("[net]\n" + 100_000 * "#\n", "line 100001: at most 100,000 lines"),
        ("[net]\n" + 5_000_000 * " ", "line 1: the text is longer than 4,194,304 characters"),
        ("[net]\n[soft]\ntree=" + 400 * "a", r"line 2, \[soft\]: tree: there is no file aaa"),
        ("[net]\n" + 5 * "[soft]\ntree=a.tree\n", r"line 10, \[soft\]: tree: more than 4 layers with a tree"),
    ],
    ids=shortened,
)
def test_complaints_name_line_and_section(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_cfg(text)


def test_broken_tree_files_name_the_section(tmp_path):
    (tmp_path / "a.tree").write_text("animal\n")
    with pytest.raises(ValueError, match=r"^line 2, \[soft\]: tree: line 1: 'animal' is not 'name parent'"):
        read_cfg("[net]\n[soft]\ntree=a.tree", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("tree", b"", "tree: line 1: there is no node"),
        ("tree", b"a -1\nb " + 50 * b"9", "tree: line 2: 'b 99*' is not 'name parent'"),
        ("tree", b"a\x1b[2J -1", r"tree: line 1: 'a\\x1b\[2J -1' is not 'name parent'"),
        ("tree", 9999 * b"a" + b" 0", r"tree: node 0 \(a{60}\): parent 0 does not precede it"),
        ("tree", 5_000_000 * b"a", "a.tree is larger than 4,194,304 bytes"),
        ("tree", b"a\0 -1", "a.tree is not a text file"),
        ("map", b"0 1 x", "map: entry 2, 'x', is not the number of a class"),
        ("map", 9999 * b"9", r"map: entry 0, '9*\.\.\.', is not the number of a class"),
    ],
    ids=shortened,
)
def test_what_trees_and_maps_may_not_hold(tmp_path, name, content, complaint):
    (tmp_path / f"a.{name}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^line 2, \[region\]: .*{complaint}$") as caught:
        read_cfg(f"[net]\n[region]\n{name}=a.{name}", root=tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "[net]\nwidth=\xa012",
        "[net]\nwidth=" + 99_999 * "9",
        "[net]\nmomentum=" + 99_999 * "9",
        "[net]\nsteps=" + 999 * "a,",
        "[net]\npolicy=\x1b[31m" + 999 * "a",
        "[net]\n[" + 99_999 * "a" + "]",
        "[net\x07" + 99_999 * "a" + "]\n",
        "[net]\n[" + 99_999 * "a",
        "[net]\n=\x1b" + 99_999 * "=",
        "[net]\nwidth=3\nheight=3\nchannels=3\n[max]\n[route]\nlayers=" + 999 * "7,",
        "[net]\nwidth=9\nheight=9\nchannels=3\n"
        + 9 * "[max]\nsize=1\nstride=2\n"
        + "[route]\nlayers=0,1"
        + 999 * ",2",
    ],
    ids=shortened,
)
def test_complaints_are_short_and_harmless_to_terminals(text):
    with pytest.raises(ValueError, match=r"^line [0-9]+") as caught:
        read_cfg(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_keys_that_nobody_reads_are_told():
    with pytest.warns(UserWarning, match=r"line 3, \[conv\]: batchnormalize is not used"):
        read_cfg("[net]\n[conv]\nbatchnormalize=1")
    with pytest.warns(UserWarning) as told:  # but not thousands of them
        read_cfg("[net]\n" + "".join(f"key{n:04}=1\n" for n in range(5000)))
    assert len(told) == 21
    assert str(told[-1].message) == "line 22 and later: 4,980 more keys are not used"


SIZED = "[net]\nwidth=32\nheight=32\nchannels=3\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        # the number that most people get wrong, with the right one, at the line to change
        (
            "[conv]\nsize=1\nfilters=125\n[region]\nnum=5\nclasses=3\nanchors=1,1,2,2,3,3,4,4,5,5",
            r"line 7, \[conv\]: filters=125, but the \[region\] in line 8 with num=5 and classes=3 needs "
            r"filters=40 = 5 \* \(5 \+ 3\)$",
        ),
        ("[conv]\n[region]", r"line 5, \[conv\]: filters=1, but the \[region\] in line 6.*filters=25 ="),
        ("[max]\n[region]", r"line 6, \[region\]: num=1 and classes=20 need 1 \* .* not the 3"),
        ("[conv]\n[detection]\ncoords=4", r"line 6, \[detection\]: layer 1 \(Grid\).*needs 294 inputs"),
        ("[route]\nlayers=-2", r"line 5, \[route\]: layer 0 \(Route\).*leaves the network"),
        ("[conv]\n[max]\nstride=2\n[shortcut]\nfrom=0", r"line 8, \[shortcut\]: .*layer 0 is 32x32x1"),
        ("[local]\nsize=5\npad=1", r"line 5, \[local\]: .*size 5 needs pad 0 or 2"),
        ("[reorg]\nstride=3", r"line 5, \[reorg\]: .*not divisible by stride 3"),
        ("[crop]\ncrop_width=40", r"line 5, \[crop\]: .*cannot crop 40x1"),
        # more than a machine has, refused before any of it is allocated
        (
            "[conv]\nfilters=999999",
            r"line 5, \[conv\]: layer 0 \(Conv\): 1,023,998,976 values in one layer's output",
        ),
        ("[conv]\nsize=99999\npad=1", r"line 5, \[conv\]: .*: [0-9,]* values in a padded input"),
        ("[max]\nsize=99999", r"line 5, \[max\]: .*: [0-9,]* values in a padded input"),
        (
            "[conn]\noutput=99999\n[conn]\noutput=9999",
            r"line 7, \[conn\]: layer 1 .*: 1,30.* parameters up to here",
        ),
        (
            "[avg]\n[conn]\noutput=1000001\n[soft]",
            r"line 8, \[soft\]: layer 2 .*: 1,000,001 classes; at most 1,000,000",
        ),
    ],
)
def test_layers_that_contradict_each_other(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_cfg(SIZED + text)


def test_limits_count_what_a_batch_norm_keeps():
    wide = "[net]\nwidth=16384\nheight=16384\nchannels=1\n[reorg]\nstride=16384\norder=space_to_depth\n"
    with pytest.raises(ValueError, match=r"line 9, \[batchnorm\]: .*: 1,610,612,736 parameters up to here"):
        read_cfg(wide + 2 * "[batchnorm]\n")


def test_limits_hold_for_any_size_of_input():
    """`yolov2.load` is asked for one that the cfg does not say."""
    layers = read_cfg("[net]\n[conv]\nfilters=999999").layers
    with pytest.raises(ValueError, match=r"^layer 0 \(Conv\): [0-9,]* values in one layer's output"):
        limited_shapes(layers, (3, 32, 32))
    assert limited_shapes(layers, (3, 1, 1)) == output_shapes(layers, (3, 1, 1)) == [(999999, 1, 1)]


def test_sections_beyond_yolov2():
    text = """[crop]
crop_height=28
crop_width=28
noadjust=1
[batchnorm]
[conv]
filters=8
flipped=1
padding=3
[shortcut]
from=-1
activation=leaky
alpha=2
[upsample]
[reorg]
order=space_to_depth
stride=2
[softmax]
[cost]
type=masked"""
    assert read_cfg(SIZED + text).layers == [
        Crop(28, 28, adjust=False),
        BatchNorm(),
        Conv(8, 1, pad=3, batch_norm=False, activation="logistic", flipped=True),
        Shortcut(-1, "leaky", alpha=2.0),
        Upsample(2),
        Reorg(2, order="space_to_depth"),
        Softmax(),
        Cost("masked"),
    ]


def test_files_that_are_no_text_or_too_long(tmp_path):
    for content, complaint in (
        (b"[net]\n\0", "not a text file"),
        (b"#" * (5 << 20), "larger than 4,194,304"),
    ):
        (tmp_path / "no.cfg").write_bytes(content)
        with pytest.raises(ValueError, match=f"^line 1: .*no.cfg is {complaint}"):
            read_cfg(tmp_path / "no.cfg")
    (tmp_path / "old.cfg").write_bytes(b"# caf\xe9\n[net]\n")  # Latin-1 in a comment does no harm
    assert read_cfg(tmp_path / "old.cfg").layers == []
    with pytest.raises(ValueError, match="more than 2000 layers"):
        read_cfg("[net]\n" + 2001 * "[avg]\n")


def test_a_tree_is_found_where_people_keep_it(tmp_path, monkeypatch):
    """Darknet is started in its own folder: cfg/some.cfg names data/some.tree."""
    for folder in ("cfg", "data", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "a.tree").write_text("animal -1\nthing -1\n")
    cfg = tmp_path / "cfg" / "a.cfg"
    cfg.write_text("[net]\n[soft]\ntree=data/a.tree")
    for folder in ("elsewhere", "."):
        monkeypatch.chdir(tmp_path / folder)
        assert read_cfg(cfg).layers[0].tree.names == ("animal", "thing")


finite = st.floats(-1e6, 1e6, allow_nan=False)
small = st.integers(1, 9)
activations = st.sampled_from(get_args(Activation))
trees = st.sampled_from([WordTree(("a", "b", "c", "d"), (-1, -1, 0, 0)), WordTree(("x", ""), (-1, 0))])
# records of any kind in any order: they need not fit each other, the file's grammar does not care
plain_layers = st.one_of(
    st.builds(
        Conv,
        *(
            small,
            small,
            small,
            st.none() | st.integers(0, 9),
            st.booleans(),
            activations,
            small,
            st.booleans(),
        ),
    ),
    st.builds(Connected, small, activations, st.booleans()),
    st.builds(Local, small, small, small, st.integers(0, 9), activations),
    st.builds(MaxPool, small, small, st.none() | st.integers(0, 9)),
    st.builds(Upsample, small, finite),
    st.builds(Reorg, small, st.booleans(), st.sampled_from(get_args(ReorgOrder))),
    st.builds(Route, st.lists(st.integers(-9, 9), min_size=1, max_size=4).map(tuple)),
    st.builds(Shortcut, st.integers(-9, 9), activations, finite, finite),
    st.builds(Crop, small, small, st.booleans(), finite, finite, finite, st.booleans()),
    st.builds(Dropout, st.floats(0, 1)),
    st.builds(Softmax, st.none() | trees),
    st.sampled_from([AvgPool(), BatchNorm()]),
)
scales = {f"{name}_scale": finite for name in ("object", "noobject", "class", "coord")}
sizes = st.floats(1e-3, 1e3)


@st.composite
def regions(draw):
    kind = draw(st.sampled_from(["softmax", "logistic", "tree"]))
    tree = draw(trees) if kind == "tree" else None
    classes = len(tree.parents) if tree else draw(small)
    nodes = st.lists(st.integers(0, classes - 1), max_size=5).map(tuple)
    return Region(
        draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=9).map(tuple)),
        classes,
        kind,
        tree,
        background=kind == "softmax" and draw(st.booleans()),
        **{name: draw(scale) for name, scale in scales.items()},
        ignore_threshold=draw(finite),
        rescore=draw(st.booleans()),
        bias_match=draw(st.booleans()),
        prior_scale=draw(finite),
        prior_images=draw(st.integers(0, 10**6)),
        class_loss=draw(st.sampled_from(get_args(ClassLoss))),
        box_weight=draw(st.sampled_from(get_args(BoxWeight))),
        location=draw(st.sampled_from(get_args(Location))),
        assumed_iou=draw(st.sampled_from([0.0, 0.25, 1.0])),
        class_map=draw(st.none() | nodes),
    )


grids = st.builds(
    Grid, small, st.integers(2, 9), small, *4 * [st.booleans()], *[scales[name] for name in scales]
)
nets = st.builds(
    Net,
    *3 * [st.integers(0, 99)],
    *2 * [small],
    *2 * [finite],
    st.builds(
        Schedule,
        *(finite, st.sampled_from(get_args(Policy)), st.integers(0, 99), finite),
        *(st.just((-1, 100)), st.tuples(finite, finite), small, finite, finite, small),
    ),
    *5 * [finite],
    *2 * [st.integers(0, 999)],
)


@st.composite
def configs(draw):
    """Any network file that can be said."""
    layers = draw(st.lists(plain_layers, max_size=6))
    training = HeadTraining()
    match draw(st.sampled_from(["region", "grid", "cost", "none"])):
        case "region":
            layers.append(draw(regions()))
            training = HeadTraining(draw(finite), draw(st.booleans()), draw(small))
        case "grid":
            layers.append(draw(grids))
            training = HeadTraining(draw(finite), False, draw(small))
        case "cost":
            layers.append(Cost(draw(st.sampled_from(get_args(CostKind))), draw(finite)))
    # without an input size, so that nobody asks whether the layers fit
    return Config(replace(draw(nets), channels=0), layers, training)


@given(configs())
def test_what_is_written_is_read_back(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("cfg", numbered=True) / "my own.cfg"
    written = write_cfg(path, config)
    assert written[0] == path
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every key that is written is read
        again = read_cfg(path)
    nameless = [layer.tree for layer in again.layers if isinstance(layer, Softmax | Region) and layer.tree]
    if any("n1" in tree.names for tree in nameless):  # a name that was empty
        assert cfg_text(again) == cfg_text(config)
    else:
        assert again == config


def test_what_the_writer_writes():
    region = Region(((1.5, 2.0),), 3, class_map=(0, 2))
    layers = [Conv(8, batch_norm=False, groups=2), MaxPool(2, 1), Reorg(2), Conv(8, 1), region]
    net = Net(64, 32, 3, batch=64, min_crop=64, max_crop=128, schedule=Schedule(0.001, "steps", 10))
    assert cfg_text(Config(net, layers, HeadTraining(0.3, True)), class_map="some.map") == (
        """[net]
batch=64
subdivisions=1
width=64
height=32
channels=3
momentum=0.9
decay=0.0001
learning_rate=0.001
policy=steps
burn_in=10

[convolutional]
filters=8
size=3
stride=1
pad=1
activation=leaky
groups=2

[maxpool]
size=2
stride=1

[reorg]
stride=2

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[region]
anchors=1.5,2
num=1
classes=3
coords=4
softmax=1
bias_match=1
rescore=1
thresh=0.6
object_scale=5
noobject_scale=1
class_scale=1
coord_scale=1
map=some.map
jitter=0.3
max=30
random=1
"""
    )


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
    "tiny": (224, None),  # these two are not in that table
    "extraction": (224, None),
}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"ORIGINAL CFG FILES ABSENT: {DATA} does not exist")
@pytest.mark.parametrize("name", ORIGINALS)
def test_original_files(name, tmp_path):
    side, floats = ORIGINALS[name]
    path = DATA / "darknet" / "cfg" / f"{name}.cfg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every key of theirs is understood
        config = read_cfg(path)
        write_cfg(tmp_path / path.name, config)
        assert read_cfg(tmp_path / path.name) == config
    assert config.net.input_shape == (3, side, side)
    shapes = parameter_shapes(config.layers, config.net.input_shape)
    found = sum(int(np.prod(shape)) for arrays in shapes for shape in arrays.values())
    assert floats in (found, None)
    last = output_shapes(config.layers, config.net.input_shape)[-1]
    match config.layers[head_index(config.layers)]:
        case Region() as region:
            assert last == (region.channels, side // 32, side // 32)
        case Grid() as grid:
            assert last == (grid.outputs, 1, 1)
        case Softmax() as softmax:
            assert last == (len(softmax.tree.parents) if softmax.tree else 1000, 1, 1)
