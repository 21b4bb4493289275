"""yolov2.tree.build and .tables: label sets and a table of hypernyms become one tree."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_tree_files import DARKNET, original, refused, written
from yolov2.errors import Complaints
from yolov2.tree.build import build_tree
from yolov2.tree.files import open_map, open_tree, save_tree
from yolov2.tree.tables import MAX_ROWS, Hypernyms, LabelSet, read_hypernyms, read_labels, read_word_names


def hypernyms(*rows):
    """A table of "child parent" rows."""
    parents = {}
    for child, parent in map(str.split, rows):
        parents.setdefault(child, ())
        parents.setdefault(parent, ())
        parents[child] += (parent,)
    return Hypernyms(Path("table.csv"), parents)


def labels(*names):
    return LabelSet(Path("labels.txt"), names, names)


def relation(tree):
    """Every word and the one above it."""
    return {
        name: None if parent < 0 else tree.names[parent]
        for name, parent in zip(tree.names, tree.parents, strict=True)
    }


def built(label_sets, table):
    complaints = Complaints()
    found = build_tree(label_sets, table, complaints)
    assert list(complaints) == []
    return found


class TestBuild:
    def test_two_label_sets(self):
        table = hypernyms("dog animal", "cat animal", "pug dog", "car vehicle", "cow animal", "tram vehicle")
        coco, breeds = labels("car", "dog"), labels("pug", "dog", "cat")
        tree, maps, names = built([coco, breeds], table)
        assert tree.names == names == ("vehicle", "animal", "car", "dog", "cat", "pug")
        assert tree.parents == (-1, -1, 0, 1, 1, 3)
        assert maps == ((2, 3), (5, 3, 4))

    def test_a_root_that_only_the_table_knows_as_a_parent(self):
        tree, maps, _ = built([labels("dog", "animal")], hypernyms("dog animal"))
        assert (tree.names, maps) == (("animal", "dog"), ((1, 0),))

    def test_the_way_that_adds_least(self):
        """Paper 2, sec. 4: not three edges where one will do; words with one way have come first."""
        ways = hypernyms("x a", "a b", "b root", "x c", "c root", "y c")
        assert relation(built([labels("x")], ways).tree) == {"root": None, "c": "root", "x": "c"}
        # a label below a, which has one way, brings a and b; then the longer way is the cheaper one
        longer = hypernyms("x c", "c d", "d root", "x a", "a b", "b e", "e root", "z a")
        tree = built([labels("x", "z")], longer).tree
        assert relation(tree)["x"] == "a" and "c" not in tree.names

    def test_ties(self):
        """Both ways add one word: the shorter, and of equal ones the first of the table."""
        table = hypernyms("x deep", "deep top", "top root", "x flat", "flat root", "d deep", "f flat")
        assert relation(built([labels("d", "f", "x")], table).tree)["x"] == "flat"
        table = hypernyms("x b", "x a", "a root", "b root")
        assert relation(built([labels("x")], table).tree)["x"] == "b"

    def test_ways_beyond_number(self):
        """2 ** 150 of them."""
        rows = [f"{side}{n} {above}{n - 1}" for n in range(1, 151) for side in "ab" for above in "ab"]
        tree = built([labels("a150", "b150")], hypernyms(*rows)).tree
        assert len(tree.names) == 152  # one way down, and the second label at its end

    def test_labels_of_one_node(self):
        complaints = Complaints()
        pair = LabelSet(Path("a.txt"), ("sofa", "bed", "couch"), ("n1", "n2", "n1"))
        _, maps, names = build_tree([pair], hypernyms("n1 n0", "n2 n0"), complaints)
        assert (maps, names) == (((1, 2, 1),), ("n0", "sofa", "bed"))
        assert list(complaints) == [("labels of one set that mean the same node", "a.txt:3 (sofa and couch)")]

    def test_names(self):
        """A label that says what a word means, then the name of the word, then the word."""
        ids, names = labels("n3", "n2", "hot_dog"), LabelSet(Path("b"), ("dog", "hound"), ("n2", "n2"))
        table = hypernyms("n2 n1", "n3 n1", "hot_dog food")
        words = {"n1": "animal", "n2": "Canis familiaris", "n3": "cat", "n9": "bus"}
        found = build_tree([ids, names], table, Complaints(), words)
        assert found.tree.names == ("n1", "food", "n3", "n2", "hot_dog")
        assert found.names == ("animal", "food", "cat", "dog", "hot dog")

    def test_spelling(self, capsys):
        complaints = Complaints()
        tree, maps, names = build_tree([labels("DiningTable")], hypernyms("dining_table Table"), complaints)
        assert (tree.names, names, maps) == (("Table", "dining_table"), ("Table", "DiningTable"), ((1,),))
        assert "'DiningTable' is taken for 'dining_table'" in capsys.readouterr().err
        build_tree([labels("pug")], hypernyms("pug dog", "Dog animal", "dog Dog"), complaints)
        assert list(complaints) == [("words of the table that are probably one", "Dog / dog")]

    def test_unknown_words(self):
        table = hypernyms("dog animal", "Apple fruit", "apple plant")
        line = refused(build_tree, [labels("dog", "dgo")], table, Complaints())
        assert line == "labels.txt: line 2: 'dgo' is no word of table.csv; did you mean 'dog'?"
        line = refused(build_tree, [labels("APPLE")], table, Complaints())
        assert line.endswith("did you mean 'Apple' or 'apple'?")
        assert "give LABEL,WORD or add a row" in refused(build_tree, [labels("bus")], table, Complaints())

    def test_a_cycle_that_was_not_read(self):
        with pytest.raises(ValueError, match="cycle"):
            build_tree([labels("a")], hypernyms("a b", "b a"), Complaints())


class TestTables:
    def test_labels(self, tmp_path):
        path = written(tmp_path / "a.txt", '\ufeffdog, n2\r\n"cat, wild",big cat\nhot  dog\n\n')
        assert read_labels(path) == LabelSet(
            path, ("dog", "cat, wild", "hot  dog"), ("n2", "big_cat", "hot_dog")
        )

    def test_hypernyms(self, tmp_path):
        rows = 'Child, Parent\nhot dog,food\ndog,animal\ndog,pet\n"cat, wild", "wild  animal"\ndog,animal\n'
        assert read_hypernyms(written(tmp_path / "a.csv", rows)).parents == {
            **{"hot_dog": ("food",), "food": (), "dog": ("animal", "pet"), "animal": (), "pet": ()},
            **{"cat,_wild": ("wild_animal",), "wild_animal": ()},
        }

    @pytest.mark.parametrize(
        "content, complaint",
        [
            ("dog,animal\ncat\n", "line 2: expected CHILD,PARENT"),
            ("dog,animal,pet", "line 1: expected CHILD,PARENT"),
            ("dog;animal", "line 1: expected CHILD,PARENT"),
            ("dog,animal\n\ncat,animal", "line 2: '' is no word"),
            ("dog,", "line 1: '' is no word"),
            ("hot dog,hot_dog", "line 1: 'hot_dog' is above itself; a root needs no row"),
            ("dog,animal\na,b\nb,c\nc,a\n", "a word is above itself: "),
            ('dog,animal\n"cat,animal\ncow,animal', "line 2: unexpected end of data"),
            (f"{'a' * 201},b", "line 1: 'aaa"),
            ("dog\x1b[2J,animal", r"line 1: 'dog\x1b[2J' is no word"),
            ("hase,sch\xf6n".encode("latin-1"), "line 1: 'sch\ufffdn' is no word"),
            ("dog,animal".encode("utf-16"), "line 1: "),
            (bytes(range(256)), "line 1: "),
            ("", "0 lines"),
            ("a,b\n" * (MAX_ROWS + 1), "500,001 lines"),
            (17_000_000 * b"a", "too much for a file of this kind"),
        ],
    )
    def test_what_a_table_may_not_hold(self, tmp_path, content, complaint):
        line = refused(read_hypernyms, written(tmp_path / "a.csv", content))
        assert line.startswith(f"{tmp_path / 'a.csv'}: ") and complaint in line and len(line) < 500

    def test_a_cycle_has_its_line(self, tmp_path):
        line = refused(read_hypernyms, written(tmp_path / "a.csv", "dog,animal\na,b\na,dog\nb,a\n"))
        place, circle = line.split(": a word is above itself: ")
        assert (place[-6:], circle) in [("line 2", "b > a > b"), ("line 4", "a > b > a")]

    @pytest.mark.parametrize(
        "content, complaint",
        [
            ("dog\n\ncat", "line 2: '' is no word or label"),
            ("dog,n1,n2", "line 1: expected LABEL or LABEL,WORD"),
            ("dog\ncat\ndog,n1", "line 3: 'dog' is in line 1 too"),
            ("dog,", "line 1: '' is no word or label"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "line 1: "),
        ],
    )
    def test_what_a_label_set_may_not_hold(self, tmp_path, content, complaint):
        assert complaint in refused(read_labels, written(tmp_path / "a.txt", content))

    def test_word_names(self, tmp_path):
        path = written(tmp_path / "a.csv", 'n1,dog\nhot dog,"hot dog, plain"\n')
        assert read_word_names(path) == {"n1": "dog", "hot_dog": "hot dog, plain"}
        assert "line 2: expected WORD,NAME" in refused(read_word_names, written(path, "n1,dog\nn2\n"))
        assert "line 2: 'n1' already has a name" in refused(read_word_names, written(path, "n1,a\nn1,b"))

    def test_missing_files(self, tmp_path):
        for function in (read_labels, read_hypernyms, read_word_names):
            assert "no.csv: cannot be read" in refused(function, tmp_path / "no.csv")
            assert "not a regular file" in refused(function, Path("/dev/zero"))


@st.composite
def dags(draw):
    """A table without cycles, rows of a word's parents in any order, and some of its words as labels."""
    parents = {}
    for n in range(draw(st.integers(1, 9))):
        above = draw(st.lists(st.sampled_from(sorted(parents)), unique=True, max_size=3)) if n else []
        parents[f"w{n}"] = tuple(above)
    order = draw(st.permutations(sorted(parents)))
    chosen = st.lists(st.sampled_from(order), min_size=1, unique=True)
    return {word: parents[word] for word in order}, draw(chosen), draw(chosen)


def ways_up(word, parents):
    """All ways from a word to a root, those by the parents that are named first at the front."""
    if not parents[word]:
        return [[word]]
    return [[word, *way] for above in parents[word] for way in ways_up(above, parents)]


def as_the_paper_says(words, parents):
    """The tree by trying all ways: {word: parent}."""
    tree = {}

    def fits(way):
        return all(tree.get(word, above) == above for word, above in zip(way, [*way[1:], None], strict=True))

    ways = {word: ways_up(word, parents) for word in words}
    for word in sorted(words, key=lambda word: len(ways[word]) > 1):
        fitting = [way for way in ways[word] if fits(way)]
        best = min(fitting, key=lambda way: (len(set(way) - set(tree)), len(way)))
        tree |= dict(zip(best, [*best[1:], None], strict=True))
    return tree


@given(dags())
def test_it_is_the_tree_of_the_paper(case):
    parents, *sets = case
    words = list(dict.fromkeys(word for some in sets for word in some))
    tree, maps, names = built([labels(*some) for some in sets], Hypernyms(Path("t"), parents))
    assert relation(tree) == as_the_paper_says(words, parents)
    assert [[tree.names[node] for node in nodes] for nodes in maps] == sets
    assert names == tree.names
    needed = {node for nodes in maps for label in nodes for node in tree.path(label)}
    assert needed == set(range(len(tree.names)))


@original
def test_the_original_tree_is_built_again(tmp_path):
    tree = open_tree(DARKNET / "9k.tree")
    above = relation(tree)
    rows = [f"{word},{parent}\n" for word, parent in above.items() if parent]
    table = read_hypernyms(written(tmp_path / "9k.csv", "".join(rows)))
    leaves = [name for name, group in zip(tree.names, tree.child_group, strict=True) if group < 0]
    again, maps, _ = built([labels(*leaves[::2]), labels(*leaves[1::2])], table)
    assert relation(again) == above
    assert [again.names[node] for node in maps[0]] == leaves[::2]
    assert Counter(again.group_sizes) == Counter(tree.group_sizes)
    save_tree(tmp_path / "again.tree", again)
    assert open_tree(tmp_path / "again.tree") == again


@original
def test_coco_and_wordnet_meet_in_one_tree(tmp_path):
    """COCO's names for the nodes of its map, and the 200 classes of ImageNet's detection task as they are."""
    tree = open_tree(DARKNET / "9k.tree")
    above = relation(tree)
    table = hypernyms(*(f"{word} {parent}" for word, parent in above.items() if parent))
    coco, inet = (open_map(DARKNET / f"{name}9k.map", 9418) for name in ("coco", "inet"))
    names = (DARKNET / "coco.names").read_text().split("\n")[:80]
    rows = "".join(f"{name},{tree.names[node]}\n" for name, node in zip(names, coco, strict=True))
    ids = "".join(f"{tree.names[node]}\n" for node in inet)
    sets = [read_labels(written(tmp_path / "a", rows)), read_labels(written(tmp_path / "b", ids))]
    small, maps, called = built(sets, table)
    assert [len(nodes) for nodes in maps] == [80, 200]
    assert [called[node] for node in maps[0]] == names
    assert [small.names[node] for node in maps[1]] == [tree.names[node] for node in inet]
    assert relation(small).items() <= above.items()
    assert len(small.names) == len({node for label in (*coco, *inet) for node in tree.path(label)})
