"""The flags of ``python -m yolov2.pretrain``."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reference.layers import AvgPool, Conv, Cost, Dropout, Layer, Softmax
from reference.region import WordTree
from reference.schedule import Schedule
from yolov2.cfg import open_cfg
from yolov2.cli import option
from yolov2.crops import CropAugment
from yolov2.errors import UserError
from yolov2.presets import CLASSIFIERS, Classes, ClassifierRecipe
from yolov2.training.config import FACTOR, FRACTION, LIMITS, Limit, LoopConfig, default_workers
from yolov2.tree.files import open_node_names, open_tree

SIDE: Limit = (lambda n: 32 <= n <= 4096, "from 32 to 4096")
PRETRAIN_LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("imgsz", "finetune_imgsz"), SIDE),
    "finetune_epochs": (lambda n: 0 <= n <= 10**6, "from 0 to 1000000"),
    "finetune_lr": LIMITS["lr"],
    "angle": (lambda x: 0 <= x <= 180, "from 0 to 180"),
    "aspect": FACTOR,
    "tree_thresh": FRACTION,
}
FINETUNE_ZOOM = 448 / 448, 512 / 448  # min_crop and max_crop of darknet19_448.cfg
CPU_PIXELS = 1 << 19  # of the pictures that a CPU takes at a time: 32 of 128x128, 10 of 224x224


@dataclass(frozen=True)
class Stage:
    """A part of the training: at one size, with a rate that falls to 0.

    Parameters
    ----------
    imgsz : int
        Side of the input in pixels.
    before, until : int
        Epochs before it, and until its end.
    lr : float
        Learning rate at its beginning.
    burn_in : int, optional
        Updates of rising rate; None is 1000 or a tenth of all.
    augment : CropAugment
        How much a picture may change.
    """

    imgsz: int
    before: int
    until: int
    lr: float
    burn_in: int | None
    augment: CropAugment

    def schedule(self, updates: int) -> Schedule:
        """Darknet's burn-in and polynomial for so many updates of this stage (SPEC 17)."""
        burn_in = min(1000, updates // 10) if self.burn_in is None else self.burn_in
        return Schedule(self.lr, "poly", burn_in=burn_in, power=4.0, max_batches=updates)


@dataclass(frozen=True)
class PretrainConfig(LoopConfig):
    """Flags of ``python -m yolov2.pretrain``."""

    model: str = option(
        f"which network: {', '.join(CLASSIFIERS)}, or a .cfg file; detectors of their names, and yolov2 and "
        "yolov2-voc after darknet19, can start from them",
        default="nano",
    )
    data: Path | None = option(
        "folder with a folder of pictures per class, in train and val; Darknet's .data; or with --crops a "
        "data set of boxes; none is the built-in one, cut out",
        default=None,
    )
    crops: bool = option("the pictures are the objects of a detection data set, cut out", default=False)
    epochs: int | None = option("times over the data, first stage; none is the model's", default=None)
    imgsz: int | None = option(
        "side of the input in pixels, first stage; none is 64 (built-in) or the model's", default=None
    )
    finetune_imgsz: int | None = option(
        "side of the input in the second stage; none is twice that of the first", default=None
    )
    finetune_epochs: int | None = option(
        "times over the data, second stage; none is a sixteenth of the first's, and 0 for nano and "
        "darknet9000",
        default=None,
    )
    finetune_lr: float | None = option(
        "learning rate of the second stage; none is a hundredth of the first's", default=None
    )
    tree: Path | None = option(
        "classes are the nodes of this tree, a 'name parent' a line as in Darknet's 9k.tree; a class folder "
        "may be called after any of them",
        default=None,
    )
    names: Path | None = option(
        "what people call the nodes, a name a line (with --evaluate: the classes of those .weights); none is "
        "the .names beside the tree",
        default=None,
    )
    tree_thresh: float = option(
        "measured on a tree: a descent goes on while the path is more probable than this", default=0.5
    )
    weights: Path | None = option(
        "start from this checkpoint or Darknet's .weights instead of random weights", default=None
    )
    cfg: Path | None = option("network file of those .weights; none is the one beside them", default=None)
    zoom: tuple[float, float] | None = option(
        "augmentation: range of a picture's shorter side before its crop, in sides of the input, first "
        "stage; none is the model's",
        default=None,
    )
    batch_norm: bool = option(
        "batch norm in the convolutions, and where it is off biases and a tenth of the rate", default=True
    )
    angle: float = option("augmentation: largest rotation in degrees", default=7.0)
    aspect: float = option("augmentation: stretching factor", default=0.75)
    hue: float = option("augmentation: hue shift", default=0.1)
    saturation: float = option("augmentation: factor", default=0.75)
    exposure: float = option("augmentation: factor", default=0.75)
    name: str = option("name of the run", default="pretrain")
    evaluate: Path | None = option(
        "measure this classifier (a run's folder, a checkpoint, Darknet's .weights) on the val pictures "
        "instead of training one",
        default=None,
    )

    RESUMABLE = (*LoopConfig.RESUMABLE, "finetune_epochs")
    PATHS = (*LoopConfig.PATHS, "tree", "names")

    def __post_init__(self):
        super().__post_init__()
        self.check(PRETRAIN_LIMITS)
        if self.model not in CLASSIFIERS and not self.model.endswith(".cfg"):
            raise ValueError(f"--model {self.model}: choose one of {', '.join(CLASSIFIERS)}, or a .cfg file")
        if self.cfg is not None and self.weights is None and self.evaluate is None:
            raise ValueError("--cfg: is of --weights; the network to train is --model")
        if self.evaluate is not None and self.tree is not None:
            raise ValueError("--tree: a classifier has its own; leave it out to --evaluate one")
        if self.model == "darknet9000" and self.tree is None and self.resume is None:
            raise ValueError("--model darknet9000: needs a --tree, such as Darknet's 9k.tree")
        if self.cache == "device":
            raise ValueError("--cache device: is for detectors; choose none or memory")
        if self.zoom is not None and (len(self.zoom) != 2 or self.zoom[0] > self.zoom[1]):
            raise ValueError("--zoom: needs two numbers, the smaller one first")

    def resolved(self, device: torch.device) -> "PretrainConfig":
        """The same configuration with every "none" that has a meaning of its own replaced by that."""
        known = ("epochs", "finetune_epochs", "imgsz", "nominal_batch", "lr", "zoom")
        # a run that is resumed knows them, and its .cfg may be gone
        missing = any(getattr(self, name) is None for name in known)
        recipe = find_classifier(self.model) if missing else CLASSIFIERS["nano"]
        nominal = self.nominal_batch or recipe.nominal_batch
        epochs = self.epochs or (4 if self.data is None else recipe.epochs)
        # an update on fewer pictures has a noisier gradient and takes a smaller step
        lr = self.lr or recipe.lr * nominal / recipe.nominal_batch * (1 if self.batch_norm else 0.1)
        imgsz = self.imgsz or (64 if self.data is None else recipe.imgsz)
        meaning: dict[str, Any] = {
            "epochs": epochs,
            "imgsz": imgsz,
            "nominal_batch": nominal,
            "lr": lr,
            "zoom": recipe.zoom,
            "finetune_imgsz": min(2 * imgsz, 4096),
            "finetune_epochs": math.ceil(epochs * recipe.finetune),
            "finetune_lr": lr / 100,
            "workers": default_workers(device),
        }
        none = {name: value for name, value in meaning.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **none)

    @property
    def stages(self) -> list[Stage]:
        """What a resolved configuration trains: a small input first, a large one for a while thereafter."""
        assert self.imgsz and self.epochs and self.lr and self.zoom
        assert self.finetune_imgsz and self.finetune_epochs is not None and self.finetune_lr
        first, second = (
            CropAugment(*zoom, self.angle, self.aspect, self.hue, self.saturation, self.exposure)
            for zoom in (self.zoom, FINETUNE_ZOOM)
        )
        stages = [Stage(self.imgsz, 0, self.epochs, self.lr, self.burn_in, first)]
        if self.finetune_epochs:
            until = self.epochs + self.finetune_epochs
            stages.append(Stage(self.finetune_imgsz, self.epochs, until, self.finetune_lr, 0, second))
        return stages

    def of_stage(self, stage: Stage, device: torch.device) -> "PretrainConfig":
        """What the training loop is told of one stage."""
        assert self.nominal_batch
        batch = self.batch
        if (
            batch is None and device.type == "cpu"
        ):  # the more at a time, the better are batch norm's statistics
            batch = min(max(8, CPU_PIXELS // stage.imgsz**2), self.nominal_batch)
        return dataclasses.replace(self, lr=stage.lr, batch=batch)


def find_classifier(model: str) -> ClassifierRecipe:
    """A classifier's table with its settings.

    Parameters
    ----------
    model : str
        A name in `yolov2.presets.CLASSIFIERS`, or the path of a cfg file whose network ends in a convolution,
        an average pool and a softmax; its classes, or its tree, can be replaced by others.

    Raises
    ------
    UserError
        If there is no such file, or it is of another kind of network.
    """
    if model in CLASSIFIERS:
        return CLASSIFIERS[model]
    if not Path(model).is_file():
        raise UserError(f"--model {model}: no such file and none of {', '.join(CLASSIFIERS)}")
    config = open_cfg(model)
    net, layers = config.net, config.layers
    last = max((i for i, layer in enumerate(layers) if isinstance(layer, Conv)), default=0)
    feeding, rest = layers[last], layers[last + 1 :]
    kinds = [type(layer) for layer in rest if not isinstance(layer, Dropout | Cost)]
    if not isinstance(feeding, Conv) or kinds != [AvgPool, Softmax]:
        raise UserError(
            f"--model {model}: trained are networks that end in a convolution, an average pool and a softmax"
        )
    if net.channels not in (0, 3) or net.height != net.width:
        raise UserError(f"--model {model}: trained are networks for square RGB pictures; see width, height")

    def table(classes: Classes) -> list[Layer]:
        assert isinstance(feeding, Conv)
        tree, filters = (None, classes) if isinstance(classes, int) else (classes, len(classes.parents))
        ending = [Softmax(tree) if isinstance(layer, Softmax) else layer for layer in rest]
        return [*layers[:last], dataclasses.replace(feeding, filters=filters), *ending]

    tree = next(layer.tree for layer in rest if isinstance(layer, Softmax))
    head = feeding.filters if tree is None else tree
    recipe = ClassifierRecipe(table, net.height or 224, head, lr=net.schedule.learning_rate)
    if net.batch > 1:  # published files are left as for testing, one picture at a time
        recipe = dataclasses.replace(recipe, nominal_batch=net.batch)
    if net.height and net.min_crop and net.max_crop:
        recipe = dataclasses.replace(recipe, zoom=(net.min_crop / net.height, net.max_crop / net.height))
    return recipe


def open_nodes(config: PretrainConfig) -> tuple[tuple[str, ...] | None, WordTree | None]:
    """The tree to train on, `config.tree` or that of the cfg file, and what people call its nodes.

    Returns
    -------
    names : tuple of str, or None
        None where there is no tree: the data have the classes.
    tree : WordTree, or None

    Raises
    ------
    UserError
        If a file cannot be read, or there are names and no tree.
    """
    head = open_tree(config.tree) if config.tree else find_classifier(config.model).head
    if isinstance(head, WordTree):
        return open_node_names(head, config.tree or config.model, config.names), head
    if config.names is not None:
        raise UserError(f"--names {config.names}: are of the nodes of a --tree, and there is none")
    return None, None
