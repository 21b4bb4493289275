"""python -m yolov2.tree: build, check and show as a user runs them."""

import pytest

from tests.commands import assert_refused, command
from tests.test_tree_files import DARKNET, original, written
from yolov2.tree.__main__ import main
from yolov2.tree.files import open_map, open_node_names, open_tree

TABLE = "child,parent\npug,n2\nn2,animal\nn3,animal\nTraffic light,thing\nn2,pet\npet,thing\n"


@pytest.fixture
def inputs(tmp_path):
    """Two label files and a table."""
    coco = written(tmp_path / "coco.names", "dog,n2\ntraffic light\n")
    pets = written(tmp_path / "pets.txt", "pug\ncat,n3\n")
    return coco, pets, "--hypernyms", written(tmp_path / "table.csv", TABLE)


def test_build_check_show(inputs, tmp_path, capsys):
    out = tmp_path / "new" / "my.tree"
    words = written(tmp_path / "words.csv", "n2,canine\nthing,inanimate\n")
    assert command(main, "build", *inputs, "--out", out, "--word-names", words) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{out}: 6 nodes in 4 groups of siblings, 3 leaves, 2 roots, 3 levels",
        f"{out.with_suffix('.names')}: what people call them",
        f"{out.with_name('my.coco.map')}: the nodes of 2 labels",
        f"{out.with_name('my.pets.map')}: the nodes of 2 labels",
    ]
    assert printed.err == "note: 'traffic_light' is taken for 'Traffic_light'\n"
    tree = open_tree(out)
    assert tree.names == ("animal", "thing", "n2", "n3", "Traffic_light", "pug")
    names = open_node_names(tree, out)
    assert names == ("animal", "inanimate", "dog", "cat", "traffic light", "pug")
    assert open_map(out.with_name("my.coco.map"), 6) == (2, 4)
    assert open_map(out.with_name("my.pets.map"), 6) == (5, 3)

    assert command(main, "check", out) == 0
    assert capsys.readouterr().out.splitlines() == [
        "6 nodes in 4 groups of siblings, 3 leaves, 2 roots, 3 levels",
        "",
        "level  nodes  leaves",
        "    0      2       0  #############",
        "    1      3       2  ####################",
        "    2      1       1  #######",
        "",
        "children  of",
        "       2  (roots)",
        "       2  animal",
        "       1  thing inanimate",
        "       1  n2 dog",
        "no mistakes",
    ]
    assert command(main, "show", out, "--words", "dog,Traffic-Light") == 0
    assert capsys.readouterr().out.splitlines() == [
        "animal (2 children)",
        "  n2 dog (1 child) *",
        "thing inanimate (1 child)",
        "  Traffic_light traffic light *",
    ]
    assert command(main, "show", out, "--words", "animal", "--children") == 0
    assert capsys.readouterr().out.splitlines() == ["animal (2 children) *", "  n2 dog (1 child)", "  n3 cat"]


def test_labels_of_one_node_are_told(inputs, tmp_path, capsys):
    """Training can use them, so the tree is built."""
    twice = written(tmp_path / "twice.txt", "dog,n2\nhound,n2\n")
    assert command(main, "build", twice, *inputs[2:], "--out", tmp_path / "my.tree") == 0
    assert "labels of one set that mean the same node: 1 (" in capsys.readouterr().err


def test_what_build_refuses(inputs, tmp_path, capsys):
    coco, *rest = inputs
    for out, names in (
        ("my.txt", ("--out", ".tree")),
        ("coco.tree", ("coco.names", "would be overwritten")),
    ):
        assert_refused(capsys, main, "build", *inputs, "--out", tmp_path / out, names=names)
    (tmp_path / "b").mkdir()
    same = written(tmp_path / "b" / "coco.txt", "dog,n2")
    out = ("--out", tmp_path / "my.tree")
    assert_refused(capsys, main, "build", coco, same, *rest[1:], *out, names=("one map",))
    written(coco, "dog,n2\nlynx\n")
    assert_refused(capsys, main, "build", *inputs, *out, names=(f"{coco}: line 2", "lynx", "table.csv"))
    written(rest[-1], TABLE + "animal,pug\n")
    assert_refused(capsys, main, "build", *inputs, *out, names=("table.csv: line", "pug"))
    assert not list(tmp_path.glob("my.*"))  # nothing half done


def test_check_lists_all_mistakes(tmp_path, capsys):
    path = written(tmp_path / "a.tree", "a -1\nb 4\nc 0\nd 99\ne 1\nf -1\n" + 12 * "?\n")
    assert command(main, "check", path) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in printed if line[0] != " "] == [
        *("not 'name parent': 12", "orphan: 1", "cycle: 1", "torn siblings: 1"),
    ]
    assert "  line 2: e > b > e" in printed and "  ... and 2 more" in printed


def test_repeated_names_are_mistakes_that_no_network_minds(tmp_path, capsys):
    path = written(tmp_path / "a.tree", "dog -1\ncat -1\ndog 0\n")
    assert command(main, "check", path) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("3 nodes in 2 groups") and "line 3: dog: also in line 1" in printed


def test_what_is_refused(tmp_path, capsys):
    path = written(tmp_path / "a.tree", "dog -1\ncat -1\n")
    assert_refused(capsys, main, names=("build, check, show",))
    assert_refused(capsys, main, "grow", names=("build, check, show", "grow"))
    assert_refused(capsys, main, "check", path, path, names=("2 trees",))
    assert_refused(capsys, main, "check", tmp_path / "no.tree", names=("no.tree: cannot be read",))
    assert_refused(capsys, main, "show", path, "--words", "bus", names=("--words", "bus"))
    names = written(tmp_path / "b.names", "dog\n")
    assert_refused(capsys, main, "check", path, "--names", names, names=("b.names: 1 names for the 2 nodes",))
    assert command(main, "--help") == 0 and "--hypernyms" in capsys.readouterr().out


@original
def test_the_original_tree(capsys):
    assert command(main, "check", DARKNET / "9k.tree") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("9,418 nodes in 1,846 groups of siblings, 7,573 leaves, 4 roots, 17 levels\n")
    assert "149  n12205694 herb" in printed and printed.endswith("no mistakes\n")
    assert command(main, "show", DARKNET / "9k.tree", "--words", "apple") == 0
    stars = [line.strip() for line in capsys.readouterr().out.splitlines() if line.endswith("*")]
    assert stars == ["n07739125 apple (2 children) *", "n12633994 apple *"]  # the fruit and the tree
