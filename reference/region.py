"""The vocabulary that every wing shares: the settings of a region layer and the tree of words. Pure data."""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, Literal

ClassActivation = Literal["softmax", "logistic", "tree"]
ClassLoss = Literal["cross_entropy", "squared_error"]
BoxWeight = Literal["2-wh", "none"]
#: what t_x and t_y are: a place in the cell, or an offset from the anchor
Location = Literal["cell", "anchor"]
#: what a tree is descended on: absolute probabilities as Darknet does, or conditional ones as the paper says
TreeRule = Literal["darknet", "paper"]


@dataclass(frozen=True)
class WordTree:
    """A tree of class names in which siblings are contiguous and parents precede children (SPEC 13.1).

    Parameters
    ----------
    names : tuple of str
        One name per node.
    parents : tuple of int
        Index of each node's parent, -1 for a root.

    Raises
    ------
    ValueError
        If the lengths differ, a parent does not precede its child, or siblings are not contiguous.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]

    #: JSON of every group's parent and size: how a tree enters a torch operator, where names mean nothing
    structure: ClassVar[str]

    def __post_init__(self):
        if len(self.names) != len(self.parents):
            raise ValueError(f"{len(self.names)} names for {len(self.parents)} parents")
        seen_parents = set()
        for node, parent in enumerate(self.parents):
            if not -1 <= parent < node:
                raise ValueError(f"node {node} ({self.names[node]:.60}): parent {parent} does not precede it")
            if node == 0 or parent != self.parents[node - 1]:
                if parent in seen_parents:
                    raise ValueError(
                        f"node {node} ({self.names[node]:.60}): the children of {parent} are not contiguous"
                    )
                seen_parents.add(parent)
        groups = [
            (self.parents[n], size) for n, size in zip(self.group_offsets, self.group_sizes, strict=True)
        ]
        # an attribute and no property, as `Region.settings`
        object.__setattr__(self, "structure", json.dumps(groups, separators=(",", ":")))

    @classmethod
    def from_structure(cls, structure: str) -> "WordTree":
        """The tree that `structure` came from, all names empty."""
        parents = tuple(parent for parent, size in json.loads(structure) for _ in range(size))
        return cls(("",) * len(parents), parents)

    @cached_property
    def group_offsets(self) -> tuple[int, ...]:
        """First node of every sibling group; group 0 holds the roots."""
        starts = [n for n, p in enumerate(self.parents) if n == 0 or p != self.parents[n - 1]]
        return tuple(starts)

    @cached_property
    def group_sizes(self) -> tuple[int, ...]:
        """Number of nodes in every sibling group."""
        ends = (*self.group_offsets[1:], len(self.parents))
        return tuple(end - start for start, end in zip(self.group_offsets, ends, strict=True))

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """The sibling group that each node belongs to."""
        return tuple(g for g, size in enumerate(self.group_sizes) for _ in range(size))

    @cached_property
    def child_group(self) -> tuple[int, ...]:
        """The group formed by the children of each node, -1 for a leaf."""
        children = [-1] * len(self.parents)
        for group, start in enumerate(self.group_offsets):
            if self.parents[start] >= 0:
                children[self.parents[start]] = group
        return tuple(children)

    def path(self, node: int) -> list[int]:
        """Nodes from `node` up to its root, both included."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes


@dataclass(frozen=True)
class Region:
    """Settings of a region layer, the head of YOLOv2 and YOLO9000 (SPEC 1-8); defaults as in yolov2-voc.

    Parameters
    ----------
    anchors : tuple of (width, height)
        Prior box sizes in cells of the output grid.
    classes : int
        Number of classes, or of nodes when `tree` is given.
    class_activation : {"softmax", "logistic", "tree"}
        How class scores become probabilities. "tree" is a softmax per sibling group of `tree`.
    tree : WordTree, optional
        Needed by, and only allowed with, ``class_activation="tree"``.
    background : bool
        Objectness joins the class softmax as one more class meaning "nothing here" (SPEC 1.2).
    object_scale, noobject_scale, class_scale, coord_scale : float
        Weights of the loss terms.
    ignore_threshold : float
        A prediction whose best IoU with any truth exceeds this is not punished for its objectness.
    rescore : bool
        The objectness target of a responsible slot is its IoU with the truth instead of 1.
    bias_match : bool
        Truths choose anchors by the anchors' shapes; otherwise by the shapes of the predictions.
    prior_scale, prior_images : float, int
        While fewer than `prior_images` pictures were seen, predictions are pulled to their anchors
        with weight `prior_scale` (SPEC 3.4).
    class_loss : {"cross_entropy", "squared_error"}
        Darknet trains the first, the papers print the second.
    box_weight : {"2-wh", "none"}
        Whether the coordinate terms of a truth are weighted by 2 - w*h (SPEC 3.2).
    assumed_iou : float
        On a tree, of images that have a class and no boxes: the overlap that the prediction which answers for
        the class is assumed to have with the unknown box. Its objectness is pulled up to that if it is below:
        .3 in paper 2 and its release of January 2017; 0, as in Darknet since July 2017, leaves it alone.
    class_map : tuple of int, optional
        Class index of detection truths -> class index of this layer, each in 0..classes - 1 (YOLO9000's
        coco9k.map).
    location : {"cell", "anchor"}
        Where t_x and t_y put the centre of a box (paper 2, "Direct location prediction"). "cell": sigma(t_x)
        cells right of the left side of its cell, which it cannot leave. "anchor": t_x widths of its anchor
        right of the anchor's centre, the middle of the cell, so anywhere, as in region proposal networks:
        x = t_x w_a + x_a (the paper prints a minus, but lets t_x = 1 move a box right). Either way truths
        belong to the cell of their centre.

    Notes
    -----
    Loss and prior compare what `location` makes of t_x: sigma(t_x), in cells, or t_x itself, in anchors. The
    prior is as if the anchor were the truth in both, so `prior_scale` relates to `coord_scale` as before, but
    its pull is another: with "anchor" a cell off costs 1 / w_a^2, less for large anchors, and the pull grows
    with the distance, where that on sigma fades as it saturates. On t_x near 0 it is 16 times as strong, as
    sigma'(0) is 1/4.

    Raises
    ------
    ValueError
        If a setting has no meaning, e.g. an anchor of size 0 or a `class_map` that leaves the layer.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    class_activation: ClassActivation = "softmax"
    tree: WordTree | None = None
    background: bool = False
    object_scale: float = 5.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    coord_scale: float = 1.0
    ignore_threshold: float = 0.6
    rescore: bool = True
    bias_match: bool = True
    prior_scale: float = 0.01
    prior_images: int = 12800
    class_loss: ClassLoss = "cross_entropy"
    box_weight: BoxWeight = "2-wh"
    class_map: tuple[int, ...] | None = None
    assumed_iou: float = 0.0
    location: Location = "cell"

    #: all of the above as JSON, a tree as its `structure`: how settings enter a torch operator
    settings: ClassVar[str]

    def __post_init__(self):
        if not self.anchors:
            raise ValueError("anchors: at least one (width, height) pair is needed")
        for w, h in self.anchors:
            if not (0 < w < float("inf") and 0 < h < float("inf")):
                raise ValueError(f"anchors: ({w}, {h}) is not a positive finite size in cells")
        if self.classes < 1:
            raise ValueError(f"classes: {self.classes} is not a positive number")
        choices = {
            "class_activation": ("softmax", "logistic", "tree"),
            "class_loss": ("cross_entropy", "squared_error"),
            "box_weight": ("2-wh", "none"),
            "location": ("cell", "anchor"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if (self.class_activation == "tree") != (self.tree is not None):
            raise ValueError("tree: needed by, and only allowed with, class_activation='tree'")
        if self.tree is not None and len(self.tree.parents) != self.classes:
            raise ValueError(f"tree: {len(self.tree.parents)} nodes for {self.classes} classes")
        if self.background and self.class_activation != "softmax":
            raise ValueError("background: only defined with class_activation='softmax'")
        if not 0 <= self.assumed_iou <= 1:
            raise ValueError(f"assumed_iou: {self.assumed_iou} is not from 0 to 1")
        for entry, label in enumerate(self.class_map or ()):
            if not 0 <= label < self.classes:
                raise ValueError(f"class_map: entry {entry}, class {label}, is not one of {self.classes}")
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["tree"] = self.tree and self.tree.structure
        # an attribute and no property: torch.compile and torch.export read it, but run none of this
        object.__setattr__(self, "settings", json.dumps(plain))

    @classmethod
    def from_settings(cls, settings: str) -> "Region":
        """The region that `settings` came from; the nodes of its tree have lost their names."""
        plain = json.loads(settings)
        plain["anchors"] = tuple((w, h) for w, h in plain["anchors"])
        if plain["class_map"] is not None:
            plain["class_map"] = tuple(plain["class_map"])
        if plain["tree"] is not None:
            plain["tree"] = WordTree.from_structure(plain["tree"])
        return cls(**plain)

    @property
    def channels(self) -> int:
        """Channels of the raw prediction: anchors * (5 + classes)."""
        return len(self.anchors) * (5 + self.classes)
