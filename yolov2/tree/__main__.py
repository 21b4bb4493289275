"""Trees of words, for detecting thousands of classes (YOLO9000): python -m yolov2.tree COMMAND

build LABELS ... --hypernyms TABLE --out my.tree   merge label sets into one tree
check my.tree                                      its size and its mistakes; status 1 if there are any
show my.tree --words dog,"hot dog"                 where words stand in it

LABELS has a label per line, "dog", or "dog,n02084071" where the table calls it n02084071. TABLE is a csv of
"child,parent"; a word may have several parents. Beside my.tree, build writes my.names, what people call the
nodes, and my.LABELS.map for every label set, the nodes that its labels mean (what coco9k.map is to 9k.tree).
Words like n02083346 that no label calls otherwise get their names from --word-names, "n02083346,canine".
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolov2.cli import option, parse, run
from yolov2.errors import Complaints, UserError
from yolov2.tree.build import build_tree
from yolov2.tree.check import tree_problems
from yolov2.tree.files import open_node_names, open_tree, save_map, save_tree, text_lines, write_text
from yolov2.tree.nodes import NodeIndex
from yolov2.tree.report import level_table, measures, outline, problem_table, widest_table
from yolov2.tree.tables import read_hypernyms, read_labels, read_word_names

PROG = "python -m yolov2.tree"


@dataclass(frozen=True)
class BuildConfig:
    """Flags of ``python -m yolov2.tree build``."""

    labels: tuple[Path, ...] = option('label files, lines of LABEL or "LABEL,WORD"', positional=True)
    hypernyms: Path = option("csv table, lines of CHILD,PARENT")
    out: Path = option("the tree to write, e.g. my.tree; its names and maps go beside it")
    word_names: Path | None = option(
        "csv, lines of WORD,NAME: what people call words that have no other label", default=None
    )

    def __post_init__(self):
        if self.out.suffix != ".tree":
            raise ValueError(f"--out {self.out}: give it the ending .tree")
        if len({path.stem for path in self.labels}) < len(self.labels):
            raise ValueError("label files of one name would have one map; rename one")
        inputs = {path.resolve() for path in (*self.labels, self.hypernyms, self.word_names) if path}
        for path in (self.out, self.names, *self.maps):
            if path.resolve() in inputs:
                raise ValueError(f"{path} would be overwritten, but is read; choose another --out")

    @property
    def names(self) -> Path:
        """What people call the nodes."""
        return self.out.with_suffix(".names")

    @property
    def maps(self) -> list[Path]:
        """The nodes of each label set."""
        return [self.out.with_name(f"{self.out.stem}.{path.stem}.map") for path in self.labels]


@dataclass(frozen=True)
class CheckConfig:
    """Flags of ``python -m yolov2.tree check``."""

    tree: tuple[Path, ...] = option("the tree", positional=True)
    names: Path | None = option(
        "file of what people call the nodes; none is the .names beside the tree", default=None
    )

    def __post_init__(self):
        _demand_one(self.tree)


@dataclass(frozen=True)
class ShowConfig:
    """Flags of ``python -m yolov2.tree show``."""

    tree: tuple[Path, ...] = option("the tree", positional=True)
    words: tuple[str, ...] = option("names of nodes, or what people call them, e.g. dog,n02084071")
    children: bool = option("show what stands directly below them too", default=False)
    names: Path | None = option(
        "file of what people call the nodes; none is the .names beside the tree", default=None
    )

    def __post_init__(self):
        _demand_one(self.tree)


def _demand_one(trees: Sequence[Path]) -> None:
    if len(trees) != 1:
        raise ValueError(f"{len(trees)} trees; give one")


def build(argv: Sequence[str]) -> int:
    """Merge label sets into a tree and write it."""
    config = parse(BuildConfig, argv, f"{PROG} build", "Merge label sets into one tree.")
    complaints = Complaints()
    label_sets = [read_labels(path) for path in config.labels]
    word_names = read_word_names(config.word_names) if config.word_names else None
    built = build_tree(label_sets, read_hypernyms(config.hypernyms), complaints, word_names)
    complaints.report()
    config.out.parent.mkdir(parents=True, exist_ok=True)
    save_tree(config.out, built.tree)
    write_text(config.names, "".join(f"{name}\n" for name in built.names))
    print(f"{config.out}: {measures(built.tree)}")
    print(f"{config.names}: what people call them")
    for path, nodes in zip(config.maps, built.maps, strict=True):
        save_map(path, nodes)
        print(f"{path}: the nodes of {len(nodes):,} labels")
    return 0


def check(argv: Sequence[str]) -> int:
    """Print the measures and the mistakes of a tree; 1 if there are mistakes."""
    config = parse(CheckConfig, argv, f"{PROG} check", "Look a tree over. Status 1: there are mistakes.")
    (path,) = config.tree
    problems = tree_problems(text_lines(path))
    if all(problem.kind == "repeated name" for problem in problems):
        tree = open_tree(path)
        names = open_node_names(tree, path, config.names)
        lines = [measures(tree), "", *level_table(tree), "", *widest_table(tree, names)]
        print("\n".join([*lines, ""] if problems else lines))
    print("\n".join(problem_table(problems)) or "no mistakes")
    return int(bool(problems))


def show(argv: Sequence[str]) -> int:
    """Print where words stand in a tree; of an ambiguous one all places."""
    config = parse(ShowConfig, argv, f"{PROG} show", "Where words stand in a tree.")
    (path,) = config.tree
    tree = open_tree(path)
    index = NodeIndex(tree, open_node_names(tree, path, config.names), Complaints().note)
    # what has no node at all is refused, as everywhere
    wanted = [node for word in config.words for node in index.nodes(word) or [index.node(word, "--words")]]
    print("\n".join(outline(tree, index.names, wanted, config.children)))
    return 0


COMMANDS = {"build": build, "check": check, "show": show}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    if given and given[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    got = f", not {given[0]}" if given else ""
    raise UserError(f"{PROG}: give {', '.join(COMMANDS)}{got}; --help explains them")


if __name__ == "__main__":
    raise SystemExit(run(main))
