"""yolov2.tree.files and .nodes: what the files of a tree hold, and which node a word means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.region import WordTree
from reference.wordtree import read_tree
from tests.golden import DATA
from yolov2.errors import Complaints, UserError
from yolov2.tree.check import KINDS, tree_problems
from yolov2.tree.files import open_map, open_node_names, open_tree, save_map, save_tree
from yolov2.tree.nodes import NodeIndex, nodes_of

DARKNET = DATA / "darknet" / "data"
original = pytest.mark.skipif(not DARKNET.is_dir(), reason=f"THE ORIGINAL TREE IS ABSENT: no {DARKNET}")

TREE = WordTree(("n1", "n2", "n3", "n4", "n5", "n6"), (-1, -1, 0, 0, 1, 1))
NAMES = ("animal", "plant", "dog", "hot dog", "apple", "Apple")


def refused(function, *args):
    """The one line of a refusal."""
    with pytest.raises(UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestFiles:
    @original
    def test_the_original_tree(self, tmp_path):
        tree = open_tree(DARKNET / "9k.tree")
        assert (len(tree.names), len(tree.group_sizes)) == (9418, 1846)
        save_tree(tmp_path / "again.tree", tree)
        assert (tmp_path / "again.tree").read_bytes() == (DARKNET / "9k.tree").read_bytes()
        names = open_node_names(tree, DARKNET / "9k.tree")
        assert names[tree.names.index("n02084071")] == "dog"
        coco = open_map(DARKNET / "coco9k.map", 9418)
        assert (len(coco), names[coco[16]]) == (80, "dog")
        save_map(tmp_path / "again.map", coco)
        assert (tmp_path / "again.map").read_bytes() == (DARKNET / "coco9k.map").read_bytes()
        assert len(open_map(DARKNET / "inet9k.map", 9418)) == 200

    def test_empty_lines_at_the_end(self, tmp_path):
        path = written(tmp_path / "a.tree", b"\xef\xbb\xbfanimal -1\r\ndog 0\r\n\r\n\n")
        assert open_tree(path) == WordTree(("animal", "dog"), (-1, 0))
        assert open_map(written(tmp_path / "a.map", "1\n 0 \n\n"), 2) == (1, 0)

    @pytest.mark.parametrize(
        "content, complaint",
        [
            ("", "line 1: not 'name parent': there is no node"),
            ("animal -1\nhot dog 0\ndog 0", "line 2: not 'name parent': hot dog 0"),
            ("animal -1\n\ndog 0", "line 2: not 'name parent': "),
            ("dog 1\nanimal -1\ncat 7", "line 1: late parent: dog: its parent is in line 2 (and 1 more;"),
            ("a -1\nb 2\nc 1\n", "line 2: cycle: c > b > c"),
            ("a -1\nb 7\n", "line 2: orphan: b: parent 7 of 2 nodes"),
            ("a -1\nb -1\nc 0\nd 1\ne 0", "line 5: torn siblings: e: others are between it and line 3"),
            ("a -1\n" + "".join(f"n{n} {n}\n" for n in range(300)), "line 201: too deep: n199: 200 nodes"),
            (b"\x1b[2J -1", r"line 1: not 'name parent': \x1b[2J -1"),
            (bytes(99), r"line 1: not 'name parent': \x00"),
            (5_000_000 * b"a", "too much for a file of this kind"),
        ],
    )
    def test_what_a_tree_may_not_hold(self, tmp_path, content, complaint):
        line = refused(open_tree, written(tmp_path / "a.tree", content))
        assert line.startswith(f"{tmp_path / 'a.tree'}: ") and complaint in line

    @pytest.mark.parametrize("content", ["", "0\n\n1", "0\n6", "-1", "dog", "0 1", "1.5", 12 * "9"])
    def test_what_a_map_may_not_hold(self, tmp_path, content):
        assert "a.map" in refused(open_map, written(tmp_path / "a.map", content), 6)

    def test_missing_files(self, tmp_path):
        for function, *args in ((open_tree,), (open_map, 3), (open_node_names, TREE, tmp_path / "a.tree")):
            path = tmp_path / "no"
            call = (*args, path) if function is open_node_names else (path, *args)
            assert "no: cannot be read" in refused(function, *call)

    def test_what_cannot_be_read_again_is_not_written(self, tmp_path):
        path = written(tmp_path / "a.tree", "old")
        for name in ("hot dog", "\x1b", 5_000_000 * "a"):
            assert "a.tree" in refused(save_tree, path, WordTree(("animal", name), (-1, 0)))
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]

    def test_names_of_nodes(self, tmp_path):
        path = tmp_path / "a.tree"
        assert open_node_names(TREE, path) == TREE.names  # there are no others
        written(tmp_path / "a.names", "\n".join(NAMES))
        assert open_node_names(TREE, path) == NAMES
        other = written(tmp_path / "b.names", "\n".join(reversed(NAMES)))
        assert open_node_names(TREE, path, other) == NAMES[::-1]
        written(tmp_path / "a.names", "those\nof\nother\nthings")  # 80 names of COCO beside coco.tree
        assert open_node_names(TREE, path) == TREE.names
        line = refused(open_node_names, TREE, path, tmp_path / "a.names")
        assert "a.names: 4 names for the 6 nodes of" in line
        written(tmp_path / "a.names", "\n".join((*NAMES[:5], "\x1b[2J")))
        assert "a.names" in refused(open_node_names, TREE, path)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "a b", ""]), st.integers(-2, 9)), max_size=8))
def test_problems_are_found_exactly_where_reading_fails(rows):
    lines = [f"{name} {parent}" for name, parent in rows]
    problems = tree_problems(lines)
    assert {p.kind for p in problems} <= set(KINDS)
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    try:
        read_tree(lines)
        assert {p.kind for p in problems} <= {"repeated name"}
    except ValueError:
        assert {p.kind for p in problems} - {"repeated name"}


def test_all_problems_are_found_at_once():
    lines = ["a -1", "b 99", "c 4", "?", "d 2", "e 8", "f 0", "g -1", "h -1", "i 0", "a -5"]
    assert [(p.line, p.kind) for p in tree_problems(lines)] == [
        (2, "orphan"),
        (3, "cycle"),
        (4, "not 'name parent'"),
        (6, "late parent"),
        (8, "torn siblings"),
        (10, "torn siblings"),
        (11, "orphan"),
        (11, "repeated name"),
    ]


class TestNodes:
    def index(self, notes=None):
        return NodeIndex(TREE, NAMES, ([] if notes is None else notes).append)

    def test_the_trees_own_name_comes_first(self):
        tree = WordTree(("dog", "n2"), (-1, 0))
        assert NodeIndex(tree, ("cat", "dog"), print).node("dog", "") == 0

    def test_spelling(self):
        notes = []
        index = self.index(notes)
        assert [index.node(name, "x") for name in ("n3", "dog", "hot dog", "apple", "Apple")] == [
            2,
            2,
            3,
            4,
            5,
        ]
        assert notes == []
        assert [index.node(name, "x") for name in ("N3", "hot_dog", "Hot-Dog")] == [2, 3, 3]
        assert notes == [
            "'N3' is taken for 'dog'",
            *(f"'{n}' is taken for 'hot dog'" for n in ("hot_dog", "Hot-Dog")),
        ]

    def test_a_word_of_several_nodes(self):
        line = refused(self.index().node, "APPLE", "classes/APPLE")
        assert line == (
            "classes/APPLE: 'APPLE' may be 2 nodes; give the name of one: "
            "n5 (plant > apple), n6 (plant > Apple)"
        )

    def test_an_unknown_word(self):
        line = refused(self.index().node, "aple", "a.names")
        assert line.startswith("a.names: 'aple' is none of the 6 nodes of the tree; did you mean 'apple'")
        assert "\x1b" not in refused(self.index().node, "\x1b" + 9999 * "a", "a.names")

    def test_classes_that_are_one_node(self):
        complaints = Complaints()
        assert nodes_of(["plant", "n1", "animal", "n1"], TREE, NAMES, "a.names", complaints) == (1, 0, 0, 0)
        assert list(complaints) == [("classes that are one node of the tree", "a.names (n1 and animal)")]
        refused(nodes_of, ["plant", "bus"], TREE, NAMES, "a.names", complaints)

    @original
    def test_the_original_tree(self):
        tree = open_tree(DARKNET / "9k.tree")
        index = NodeIndex(tree, open_node_names(tree, DARKNET / "9k.tree"), print)
        assert [index.node(name, "") for name in tree.names] == list(range(9418))
        line = refused(index.node, "mouse", "coco.names")
        assert "n02330245 (... > mammal > placental > rodent > mouse)" in line
