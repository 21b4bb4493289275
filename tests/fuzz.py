"""Damaged files: thousands of mutated cfg texts, trees and weights files, each read, built and run.

    python -m tests.fuzz --count 20000 --seed 0
    python -m tests.fuzz --seed 0 --only 4711      # that case again, with its traceback

Case i is a function of (seed, i). It has to end in a valid model or in an error that says in one line what is
wrong and where. Everything else is printed with the case's number: any other exception, any warning that is
not about the user's file, more than `SECONDS`, more than `MEGABYTES` on top, the death of the process. The
cases run in a child whose address space is bounded, so that unbounded memory ends in MemoryError.
"""

import argparse
import gzip
import math
import multiprocessing
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from reference.layers import Connected, Conv, Layer, Local, MaxPool, Shape, output_shapes
from tests.golden import DATA
from yolov2.cfg import Config, read_cfg, write_cfg
from yolov2.errors import UserError
from yolov2.loading import load
from yolov2.network import Network
from yolov2.weights import initial_parameters, parameter_shapes, read_weights, write_weights

SECONDS = 2  # of processor time, for one case
HANG = 30  # seconds of the clock
MEGABYTES = 300  # that memory may grow by, over all cases
ADDRESS_SPACE = 4 << 30  # bytes on top of what the process has mapped at the start
SMALL = 2e6, 5e8, 1e7  # parameters, multiply-adds and values of a network that is run

NET = """[net]
# Testing
batch=1
subdivisions=1
width={0}
height={0}
channels=3
momentum=0.9
decay=0.0005
learning_rate=0.001
"""
DETECTOR = (
    NET.format(32)
    + """angle=7
saturation = 1.5
exposure = 1.5
hue=.1
aspect=.75
min_crop=28
max_crop=40
burn_in=10
max_batches = 500
policy=steps
steps=-1,40,60
scales=.1,10,.1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=16
size=3
pad=1
groups=2
activation=relu

[route]
layers=-2

[reorg]
stride=2

[route]
layers=0

[maxpool]
size=4
stride=4

[route]
layers=-1,-3

[convolutional]
size=1
stride=1
pad=1
filters=18
activation=linear

[region]
anchors = 1.3221,1.73145, 3.19275,4.00944
bias_match=1
classes=4
coords=4
num=2
softmax=1
jitter=.3
rescore=1
background=0
object_scale=5
noobject_scale=1
class_scale=1
coord_scale=1
absolute=1
thresh = .6
random=1
max=40
class_loss=squared_error
box_weight=none
prior_scale=.02
prior_images=100
"""
)
TREE_DETECTOR = (
    NET.format(24)
    + """policy=poly
power=4
max_batches=1000

[conv]
filters=12
size=3
stride=4
padding=1
activation=logistic
flipped=1

[max]
size=2
stride=1

[upsample]
stride=2
scale=.5

[reorg]
reverse=1
stride=2
order=space_to_depth

[conv]
filters=10
size=2
stride=2
activation=linear

[region]
anchors=.5,.5
num=1
classes=5
softmax=1
tree=other.tree
map=small.map
"""
)
CLASSIFIER = (
    NET.format(20)
    + """policy=exp
gamma=.99

[crop]
crop_height=16
crop_width=16
flip=0
angle=0
saturation=1
exposure=1
shift=0
noadjust=0

[conv]
filters=8
size=3
pad=1
activation=leaky

[batchnorm]

[conv]
filters=8
size=3
pad=1
activation=linear

[shortcut]
from=-2
activation=leaky
alpha=.5
beta=2

[avgpool]

[dropout]
probability=.3

[connected]
output=5
batch_normalize=1
activation=linear

[softmax]
groups=1
temperature=1
tree=small.tree

[cost]
type=masked
scale=2
"""
)
GRID = (
    NET.format(16).replace("[net]", "[network]")
    + """policy=step
step=100
scale=.5

[convolutional]
filters=4
size=5
stride=2
pad=1
activation=leaky

[local]
filters=3
size=3
stride=2
pad=1
activation=leaky

[conn]
output=48
activation=linear

[detection]
classes=2
coords=4
rescore=1
side=2
num=2
softmax=0
sqrt=1
forced=0
jitter=.2
max=30
random=0
object_scale=1
noobject_scale=.5
class_scale=1
coord_scale=5
"""
)
PLAIN = (
    NET.format(12)
    + """policy=sigmoid
[conv]
filters=6
size=3
activation=leaky
[avg]
[soft]
"""
)
TEXTS = [DETECTOR, TREE_DETECTOR, CLASSIFIER, GRID, PLAIN]
TREE = b"animal -1\nthing -1\ndog 0\ncat 0\npoodle 2\n"
OTHER_TREE = b"a -1\nb 0\nc 0\nd 2\ne 2\n"
BESIDE = {"small.tree": TREE, "other.tree": OTHER_TREE, "small.map": b"2\n3\n1\n"}

NUMBERS = [b"", b"9" * 5000]
NUMBERS += b"""0 -1 1 2 3 7 64 999 100000 2147483647 2147483648 -2147483649 1e9 99999999999999999999 1e308
1e38 -1e308 1e999 1e-320 nan inf -inf . - + 1e 0x10 1,2 1, ,1 -0 1_0 .5.5 \xd9\xa3 \xff yes""".split()
LINES = b"""[net] [conv] [region] [softmax] [cost] [yolo] [route] [local] [detection] [] [ ] = =1 a= batch=2
pad=1 groups=3 tree=small.tree tree=no.tree tree=/dev/zero tree=. map=small.tree map=../x random=1 dontload=1
a=1 from=-1 layers=-1,-2 stride=2 size=2 activation=mish activation=leaky flipped=1 # ; \x00 \xff\xfe
\x1b[31m=1 filters=1000000 classes=100000 output=2000000 padding=3 num=1000 side=1000 width=0 width=1000000
channels=1 policy=poly policy=step batch_normalize=1 reverse=1 stride=2147483647 size=30000
padding=30000""".split()


def number_replaced(rng: random.Random, text: bytes) -> bytes:
    places = list(re.finditer(rb"(?<==)[^=\n]*|[-+.\d]+", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(NUMBERS) + text[place.end() :]


def list_extended(rng: random.Random, text: bytes) -> bytes:
    places = [m.end() for m in re.finditer(rb"=[^\n]*", text)]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + b"," + b",".join([rng.choice(NUMBERS)] * rng.choice([1, 2, 9, 3000])) + text[place:]


def bytes_flipped(rng: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def lines_changed(rng: random.Random, text: bytes) -> bytes:
    lines = text.split(b"\n")
    here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[here]
        case 1:
            lines.insert(there, lines[here])
        case 2:
            lines[here], lines[there] = lines[there], lines[here]
        case 3:
            lines.insert(here, rng.choice(LINES))
        case 4:
            lines[here] = rng.choice(LINES) * rng.choice([1, 1, 1, 300])
    return b"\n".join(lines)


def sections_changed(rng: random.Random, text: bytes) -> bytes:
    sections = re.split(rb"(?m)^(?=\[)", text)
    here, there = rng.randrange(len(sections)), rng.randrange(len(sections))
    match rng.randrange(4):
        case 0:
            sections.insert(there, sections.pop(here))
        case 1:
            sections.insert(there, sections[here])
        case 2:
            del sections[here]
        case 3:
            sections[here:here] = [sections[here]] * rng.choice([2, 20, 500])
    return b"".join(sections)


def cut(rng: random.Random, text: bytes) -> bytes:
    return text[: rng.randrange(len(text) + 1)]


def encoded_otherwise(rng: random.Random, text: bytes) -> bytes:
    match rng.randrange(5):
        case 0:
            return text.replace(b"\n", b"\r\n")
        case 1:
            return b"\xef\xbb\xbf" + text
        case 2:
            return text.decode("latin-1").encode("utf-16")
        case 3:
            ends = [b"\r", b"\x0b", b"\xc2\x85", b"\xe2\x80\xa8"]
            return text.replace(b"\n", rng.choice(ends), rng.choice([1, -1]))
        case _:
            return text.replace(b"=", rng.choice([b" = ", b"\t=\xc2\xa0", b"==", b"\xef\xbc\x9d"]))


def spliced(rng: random.Random, text: bytes) -> bytes:
    other = rng.choice(TEXTS).encode()
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other)) :]


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    *[number_replaced] * 4,
    *[lines_changed] * 3,
    *[sections_changed] * 2,
    list_extended,
    bytes_flipped,
    cut,
    encoded_otherwise,
    spliced,
]


@dataclass(frozen=True)
class Case:
    """The files of one case, and what is read of them."""

    files: dict[str, bytes]
    cfg: str
    weights: str = ""


@cache
def originals() -> tuple[bytes, ...]:
    """The original cfg files, where they are present."""
    return tuple(path.read_bytes() for path in sorted((DATA / "darknet" / "cfg").glob("*.cfg")))


@cache
def whole_weights() -> tuple[tuple[str, bytes], ...]:
    """Of the small networks the text, and a weights file that fits."""
    found = []
    for text in TEXTS:
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(text, Path(folder))
            values = initial_parameters(config.layers, config.net.input_shape, np.random.default_rng(0))
            write_weights(path := Path(folder) / "whole.weights", config.layers, values)
            found.append((text, path.read_bytes()[20:]))
    return tuple(found)


def config_of(text: str, folder: Path) -> Config:
    """What a text says, with the small tree beside it."""
    for name, content in BESIDE.items():
        (folder / name).write_bytes(content)
    return read_cfg(text, root=folder)


def make(seed: int, number: int) -> Case:
    """The files of a case."""
    rng = random.Random(f"{seed} {number}")
    if rng.random() < 0.3:
        text, content = rng.choice(whole_weights())
        name = rng.choice(["a.weights"] * 8 + ["a.conv.23", "a.pt", "a.bin", "a.safetensors"])
        return Case(BESIDE | {"a.cfg": text.encode(), name: damaged(rng, content)}, "a.cfg", name)
    text = rng.choice(originals() if originals() and rng.random() < 0.25 else [t.encode() for t in TEXTS])
    what = "a.cfg" if rng.random() < 0.9 else rng.choice([*BESIDE])
    files = BESIDE | {"a.cfg": rng.choice([TREE_DETECTOR, CLASSIFIER]).encode() if what != "a.cfg" else text}
    for _ in range(rng.choice([1, 1, 2, 3])):
        files[what] = rng.choice(MUTATIONS)(rng, files[what])
    return Case(files, "a.cfg")


def damaged(rng: random.Random, floats: bytes) -> bytes:
    """A weights file that something happened to; now and then nothing did."""
    version = rng.choice([(0, 2, 0)] * 4 + [(0, 1, 0), (0, 2, 5), (1, 0, 0), (1001, 0, 0), (0, 1001, 3)])
    version = rng.choice([version] * 5 + [(-1, 2, 0), (2**31 - 1, 0, 0), (9999, 9999, -1), (0, 0, 0)])
    wide = version[0] * 10 + version[1] >= 2 and max(version[:2]) < 1000
    whole = struct.pack("<3iq" if wide else "<3ii", *version, rng.choice([0, 5, 2**31 - 1, -1])) + floats
    match rng.randrange(10):
        case 0:
            return whole[: rng.choice([rng.randrange(64), rng.randrange(len(whole))])]
        case 1:
            return whole + rng.randbytes(rng.choice([1, 3, 4, 16, 5000]))
        case 2:
            return bytes_flipped(rng, whole[:20]) + whole[20:]
        case 3:
            place = 20 + 4 * rng.randrange(len(floats) // 4)
            value = rng.choice([math.nan, math.inf, -math.inf, 3e38, -1.0, 1e-42])
            return whole[:place] + struct.pack("<f", value) + whole[place + 4 :]
        case 4:
            return whole[:20] + rng.randbytes(len(whole) - 20)
        case 5:
            starts = [b"<!DOCTYPE html>\n", b'{"error": 404}', b"\n\n<html>", b"[net]\n", b"PK\x03\x04"]
            start = rng.choice(starts)
            return start + rng.choice([b"", whole])
        case 6:
            return rng.choice(
                [gzip.compress(whole, mtime=0), b"version https://git-lfs.github.com/spec/v1\n"]
            )
        case 7:
            return rng.choice([b"", b"\0" * rng.randrange(40), rng.randbytes(rng.randrange(4000))])
    return whole


class Wrong(Exception):
    """What no file may do."""


def check_complaint(error: Exception, start: str) -> None:
    """A complaint has a line of its own, not too long, that says where."""
    message = str(error)
    if not message.startswith(start) or len(message) > 1000 or not message.isprintable():
        raise Wrong(f"{message[:150]!r} does not begin with {start!r}, or is no line") from error


def judge(case: Case, folder: Path) -> str:
    """Read, build and run what a case holds; in a word, what came of it."""
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    return judge_weights(case, folder) if case.weights else judge_cfg(case, folder)


def judge_cfg(case: Case, folder: Path) -> str:
    path, written = folder / case.cfg, folder / "written" / "a.cfg"
    try:
        config = read_cfg(path)
    except ValueError as error:
        check_complaint(error, "line ")
        return "cfg: refused"
    written.parent.mkdir(exist_ok=True)
    write_cfg(written, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if read_cfg(written, root=written.parent) != config:
            raise Wrong("what was written is read as something else")
    layers, shape = config.layers, config.net.input_shape
    if min(shape) < 1 or not layers:
        return "cfg: valid, without layers or a size"
    shapes = output_shapes(layers, shape)
    sizes = [math.prod(s) for arrays in parameter_shapes(layers, shape) for s in arrays.values()]
    values = shape[0] * shape[1] * shape[2] + sum(map(math.prod, shapes))
    small = sum(sizes) <= SMALL[0] and work(layers, shape, shapes) <= SMALL[1] and values <= SMALL[2]
    with torch.device("cpu" if small else "meta"), torch.no_grad():
        network = Network(layers, shape).eval()
        outputs = network.layer_outputs(torch.rand(1, *shape))
    if [tuple(y.shape[1:]) for y in outputs] != shapes:
        raise Wrong(f"outputs {[tuple(y.shape) for y in outputs]} where {shapes} were announced")
    if sum(p.numel() for p in network.parameters()) > sum(sizes):
        raise Wrong("the network has parameters that no file would hold")
    if not small:
        return "cfg: valid, built without memory"
    weights = folder / "a.weights"
    write_weights(weights, layers, initial_parameters(layers, shape, np.random.default_rng(0)))
    try:
        load(weights, path, device="cpu")
    except UserError as error:
        check_complaint(error, str(folder))
        return "cfg: valid, run, no model"
    finally:
        weights.unlink()
    return "cfg: valid, run, a model"


def work(layers: list[Layer], shape: Shape, shapes: list[Shape]) -> int:
    """About how many multiply-adds a network takes; a value of a padded input counts as a hundred."""
    total = 0
    for layer, (c, h, w), out in zip(layers, [shape, *shapes], shapes, strict=False):
        match layer:
            case Conv() | MaxPool():
                margin = 2 * layer.padding if isinstance(layer, Conv) else layer.total_padding
                total += 100 * c * (h + margin) * (w + margin)
        match layer:
            case Conv() | Local():
                groups = layer.groups if isinstance(layer, Conv) else 1
                total += math.prod(out) * c // groups * layer.size**2
            case Connected():
                total += math.prod(out) * c * h * w
            case MaxPool():
                total += math.prod(out) * layer.size**2
    return total


def judge_weights(case: Case, folder: Path) -> str:
    path = folder / case.weights
    config = config_of(case.files[case.cfg].decode(), folder)
    layers, shape = config.layers, config.net.input_shape
    announced = parameter_shapes(layers, shape)
    outcomes = []
    for strict in (True, False):
        try:
            header, parameters = read_weights(path, layers, shape, strict)
        except ValueError as error:
            check_complaint(error, f"{path}: ")
            outcomes.append("refused")
        else:
            outcomes.append("read")
            for arrays, shapes in zip(parameters, announced, strict=True):
                if arrays and {name: a.shape for name, a in arrays.items()} != shapes:
                    raise Wrong("arrays of other shapes than announced")
            if strict:
                again = folder / "again.weights"
                write_weights(again, layers, parameters, header.seen, header.version)
                if again.read_bytes() != path.read_bytes():
                    raise Wrong("what was read is written as something else")
        try:
            model = load(path, folder / case.cfg, device="cpu", strict=strict)
        except UserError as error:
            check_complaint(error, str(path))
            outcomes.append("no model")
        else:
            outcomes.append("a model")
            with torch.no_grad():
                model.network(torch.rand(1, *shape))
    if outcomes[0] == "refused" and outcomes[1] == "a model":
        raise Wrong("a model from a file that was refused")
    return f"weights: {outcomes[0]}, {outcomes[1]}; not strict: {outcomes[2]}, {outcomes[3]}"


@dataclass(frozen=True)
class Result:
    """What came of a case: an outcome that is allowed, or else the problem."""

    number: int
    outcome: str
    problem: str = ""


class Hang(BaseException):
    """Nothing in the library catches it."""


def hung(signum: int, frame: object) -> None:
    raise Hang(f"no end after {HANG} seconds")


def attempt(seed: int, number: int, folder: Path, limit: int, trace: bool = False) -> Result:
    """One case, watched. Its peak memory, in kilobytes, may not exceed `limit`."""
    previous = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    before = time.process_time()
    try:
        case = make(seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for message in (r"(.*: )?line .* not used", ".* start at random"):
                warnings.filterwarnings("ignore", message, UserWarning)
            result = Result(number, judge(case, folder))
    except (Exception, Hang) as error:
        if trace:
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        result = Result(number, "", f"{type(error).__name__}: {str(error)[:500]} ({where})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    spent = time.process_time() - before
    if not result.problem and spent > SECONDS:
        result = Result(number, "", f"{spent:.1f} seconds")
    if not result.problem and peak() > limit:
        result = Result(number, "", f"memory grew by {(peak() - limit) // 1024 + MEGABYTES} MB")
    return result


def peak() -> int:
    """Most memory that this process has had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(seed: int, numbers: Iterable[int], folder: Path, trace: bool = False) -> Iterable[Result]:
    """The results of cases, in this process."""
    (folder / "data").mkdir(exist_ok=True)
    if (DATA / "darknet" / "data" / "9k.tree").is_file():
        for name in ("9k.tree", "coco9k.map"):
            shutil.copy(DATA / "darknet" / "data" / name, folder / "data" / name)
    whole_weights(), originals()  # made once, and not on the account of a case
    judge(Case({"a.cfg": DETECTOR.encode()}, "a.cfg"), folder)  # what torch takes when it starts
    limit = peak() + MEGABYTES * 1024
    for number in numbers:
        result = attempt(seed, number, folder, limit, trace)
        limit = max(limit, peak())
        yield result


def child(seed: int, numbers: range, folder: Path, trace: bool, to: Connection) -> None:
    """Run cases with a bounded address space and send their results."""
    torch.set_num_threads(1)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
    start = peak()
    for result in run(seed, numbers, folder, trace):
        to.send((result, start, peak()))


def survive(seed: int, numbers: range, folder: Path, trace: bool) -> Iterable[tuple[Result, int, int]]:
    """Results and memory (at the start, peak; kilobytes) of cases in children; a new one for every death."""
    context = multiprocessing.get_context("fork")
    while numbers:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(seed, numbers, folder, trace, there))
        process.start()
        there.close()
        try:
            while numbers and here.poll(2 * HANG):
                result, start, most = here.recv()
                numbers = range(result.number + 1, numbers.stop)
                yield result, start, most
        except EOFError:
            pass
        if numbers:
            process.kill()
        process.join()
        if numbers:
            yield Result(numbers.start, "", f"the process died or hung (exit {process.exitcode})"), 0, 0
            numbers = range(numbers.start + 1, numbers.stop)


def main(argv: list[str] | None = None) -> int:
    """Run cases, print every problem as it comes, then what came of all; status 1 if there were problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="one case, with its traceback")
    args = parser.parse_args(argv)
    numbers = range(args.count) if args.only is None else range(args.only, args.only + 1)
    outcomes: Counter[str] = Counter()
    memory = (0, 0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for result, *kilobytes in survive(args.seed, numbers, Path(folder), args.only is not None):
            outcomes[result.outcome or "PROBLEM"] += 1
            memory = max(memory, (kilobytes[1], kilobytes[0]))
            if result.problem:
                print(f"case {result.number}: {result.problem}", flush=True)
    for outcome, count in outcomes.most_common():
        print(f"{count:7,}  {outcome}")
    most, start = (kilobytes // 1024 for kilobytes in memory)
    print(f"{len(numbers):,} cases of seed {args.seed} in {time.monotonic() - began:.0f} s; ", end="")
    print(f"peak memory {most:,} MB, {start:,} MB before the first")
    return int(bool(outcomes["PROBLEM"]))


if __name__ == "__main__":
    sys.exit(main())
