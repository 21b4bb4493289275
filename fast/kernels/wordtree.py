"""Softmax over sibling groups and probabilities along paths (SPEC 1.1, 13.2), one tile of groups a program.

YOLO9000 at 544 pixels has 867 boxes ("rows") an image and 9418 nodes in 1846 groups: 1 to 149 nodes, 5 on
average. A softmax reads and writes every value once, 65 MB an image in float32: 15 us at 4.3 TB/s.

A tile is (GROUPS, WIDTH, ROWS): whole groups, padded to WIDTH members, of some rows. Padding moves no bytes
but costs instructions, so groups are sorted into classes by their size (`TILES`), a launch each: of the 9k
tree 1625 groups up to 8, 205 up to 32 and 16 wider ones, in which one has more members than its tile is
wide and is read twice. The lanes of a warp follow the memory: where rows are neighbours (NCHW) a program
takes one group of many rows and a thread reduces its own members; where nodes are neighbours (channels
last) it takes many groups of one row, which together are a run of memory with few gaps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty_strided, launch, once
from fast.wordtree import tree_of

#: (widest group, elements of a tile), powers of two; groups wider than the last take several of its tiles
TILES = ((8, 1024), (32, 2048), (128, 2048))
STEPS = 8  # ancestors whose loads are under way together: half the depth of the 9k tree
INFO = tl.constexpr(3)  # columns of a group's line before its ancestors


@triton.jit
def _groups(groups, G, columns, GROUPS: tl.constexpr):
    """The lines of this program's groups, their first members and sizes; size 0 beyond the last group."""
    number = tl.program_id(0) % tl.cdiv(G, GROUPS) * GROUPS + tl.arange(0, GROUPS)
    line = groups + number * columns
    return line, tl.load(line, number < G, other=0), tl.load(line + 1, number < G, other=0)


@triton.jit
def _rows(G, GROUPS: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows. Groups run faster: programs at work together want the same rows."""
    return tl.program_id(0) // tl.cdiv(G, GROUPS) * ROWS + tl.arange(0, ROWS)


@triton.jit
def _at(x, row, n2, n3, x1, x2, x3):
    """Where rows begin; a row's number counts three dimensions (n1, n2, n3) of these strides."""
    i, j, k = row // n3 // n2, row // n3 % n2, row % n3
    return x + (i.to(tl.int64) * x1 + j.to(tl.int64) * x2 + k.to(tl.int64) * x3)


@triton.jit
def _corner(x, first, row, n2, n3, x1, x2, x3, xn):
    """Where the first member of every group and row is: (GROUPS, 1, ROWS)."""
    return _at(x, row, n2, n3, x1, x2, x3)[None, None, :] + (first.to(tl.int64) * xn)[:, None, None]


@triton.jit
def _softmax_kernel(
    x, out, groups, G, columns, R, n2, n3,
    x1, x2, x3, xn, o1, o2, o3, on,  # strides
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, WIDER: tl.constexpr,
):  # fmt: skip
    """P(node | parent). A NaN or +inf makes its group NaN, as does a group of -inf only."""
    _, first, size = _groups(groups, G, columns, GROUPS)
    row = _rows(G, GROUPS, ROWS)
    x = _corner(x, first, row, n2, n3, x1, x2, x3, xn)
    out = _corner(out, first, row, n2, n3, o1, o2, o3, on)
    inside, size = (row < R)[None, None, :], size[:, None, None]
    member = tl.arange(0, WIDTH)[None, :, None]

    if not WIDER:
        here = inside & (member < size)
        score = tl.load(x + member * xn, here, other=-float("inf")).to(tl.float32)
        e = tl.exp(score - tl.max(score, 1, keep_dims=True))
        p = tl.div_rn(e, tl.sum(e, 1, keep_dims=True))
        tl.store(out + member * on, p.to(out.dtype.element_ty), here)
    else:
        top = tl.full([GROUPS, 1, ROWS], -float("inf"), tl.float32)
        total = tl.zeros([GROUPS, 1, ROWS], tl.float32)
        for start in range(0, tl.max(size), WIDTH):
            here = inside & (start + member < size)
            score = tl.load(x + (start + member) * xn, here, other=-float("inf")).to(tl.float32)
            before, top = top, tl.maximum(top, tl.max(score, 1, keep_dims=True))
            # while all is -inf the shift is 0, since -inf - -inf would spoil what follows
            shift = tl.where(top == -float("inf"), 0.0, top)
            total = total * tl.exp(before - shift) + tl.sum(tl.exp(score - shift), 1, keep_dims=True)
        shift = tl.where(top == -float("inf"), 0.0, top)
        for start in range(0, tl.max(size), WIDTH):
            here = inside & (start + member < size)
            e = tl.exp(tl.load(x + (start + member) * xn, here, other=0).to(tl.float32) - shift)
            tl.store(out + (start + member) * on, tl.div_rn(e, total).to(out.dtype.element_ty), here)


@triton.jit
def _softmax_grad_kernel(
    p, g, out, groups, G, columns, R, n2, n3,
    p1, p2, p3, pn, g1, g2, g3, gn, o1, o2, o3, on,  # strides
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, WIDER: tl.constexpr,
):  # fmt: skip
    """p * (g - sum of g * p over the group): two reads and a write a node, 23 us an image in float32."""
    _, first, size = _groups(groups, G, columns, GROUPS)
    row = _rows(G, GROUPS, ROWS)
    p = _corner(p, first, row, n2, n3, p1, p2, p3, pn)
    g = _corner(g, first, row, n2, n3, g1, g2, g3, gn)
    out = _corner(out, first, row, n2, n3, o1, o2, o3, on)
    inside, size = (row < R)[None, None, :], size[:, None, None]
    member = tl.arange(0, WIDTH)[None, :, None]

    if not WIDER:
        here = inside & (member < size)
        prob = tl.load(p + member * pn, here, other=0).to(tl.float32)
        grad = tl.load(g + member * gn, here, other=0).to(tl.float32)
        dx = prob * (grad - tl.sum(prob * grad, 1, keep_dims=True))
        tl.store(out + member * on, dx.to(out.dtype.element_ty), here)
    else:
        total = tl.zeros([GROUPS, 1, ROWS], tl.float32)
        for start in range(0, tl.max(size), WIDTH):
            here = inside & (start + member < size)
            prob = tl.load(p + (start + member) * pn, here, other=0).to(tl.float32)
            grad = tl.load(g + (start + member) * gn, here, other=0).to(tl.float32)
            total += tl.sum(prob * grad, 1, keep_dims=True)
        for start in range(0, tl.max(size), WIDTH):
            here = inside & (start + member < size)
            prob = tl.load(p + (start + member) * pn, here, other=0).to(tl.float32)
            grad = tl.load(g + (start + member) * gn, here, other=0).to(tl.float32)
            dx = prob * (grad - total)
            tl.store(out + (start + member) * on, dx.to(out.dtype.element_ty), here)


@triton.jit
def _absolute_kernel(
    x, out, groups, G, columns, R, n2, n3,
    x1, x2, x3, xn, o1, o2, o3, on,  # strides
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Multiply from the root down, in the oracle's order, so that no rounding differs.

    Nobody waits for a parent: every group multiplies its own ancestors again. In the 9k tree these are 8
    a group, 1.6 reads more a node, which the programs before it have left in the cache.
    """
    line, first, size = _groups(groups, G, columns, GROUPS)
    depth = tl.load(line + 2, size > 0, other=0)
    row = _rows(G, GROUPS, ROWS)
    inside = row < R

    x_row = _at(x, row, n2, n3, x1, x2, x3)[None, :]
    above = tl.full([GROUPS, ROWS], 1.0, tl.float32)
    for start in range(0, tl.max(depth), STEPS):
        for step in tl.static_range(STEPS):
            deep = start + step < depth
            node = tl.load(line + INFO + start + step, deep, other=0).to(tl.int64)
            at = x_row + (node * xn)[:, None]
            above *= tl.load(at, deep[:, None] & inside[None, :], other=1.0).to(tl.float32)

    x = _corner(x, first, row, n2, n3, x1, x2, x3, xn)
    out = _corner(out, first, row, n2, n3, o1, o2, o3, on)
    size = size[:, None, None]
    member = tl.arange(0, WIDTH)[None, :, None]
    for start in range(0, tl.max(size), WIDTH):
        here = inside[None, None, :] & (start + member < size)
        value = tl.load(x + (start + member) * xn, here, other=0).to(tl.float32) * above[:, None, :]
        tl.store(out + (start + member) * on, value.to(out.dtype.element_ty), here)


@once
def _classes(
    structure: str, device: torch.device, tiles: tuple[tuple[int, int], ...]
) -> list[tuple[int, int, bool, Tensor]]:
    """(tile's width, its elements, are groups wider, groups) of every class of sizes that occurs.

    Groups are int32 (G, 3 + D): first member, size, number of ancestors, and those from the root down.
    """
    tree = tree_of(structure)
    paths = [tree.path(tree.parents[first])[::-1] for first in tree.group_offsets]
    deepest = max(map(len, paths))
    rest = list(zip(tree.group_offsets, tree.group_sizes, paths, strict=True))
    classes = []
    for last, (width, elements) in enumerate(tiles, 1 - len(tiles)):
        here = [group for group in rest if group[1] <= width or last == 0]
        rest = [group for group in rest if group[1] > width and last != 0]
        lines = [(first, n, len(path), *path, *[-1] * (deepest - len(path))) for first, n, path in here]
        if here:
            wider = any(n > width for _, n, _ in here)
            classes.append((width, elements, wider, torch.tensor(lines, dtype=torch.int32, device=device)))
    return classes


def _merged(dims: list[int], tensors: tuple[Tensor, ...]) -> list[list[int]]:
    """`dims` of equally shaped tensors in as few as possible: (size, stride in each tensor) of each."""
    merged: list[list[int]] = []
    for d in dims:
        size, *strides = here = [tensors[0].shape[d], *(t.stride(d) for t in tensors)]
        if merged and merged[-1][1:] == [size * stride for stride in strides]:
            merged[-1] = [merged[-1][0] * size, *strides]
        elif size != 1:
            merged.append(here)
    return merged


def _run(kernel, structure: str, dim: int, out: Tensor, *inputs: Tensor, wider: bool = True, **constants):
    """Launch `kernel` for every class of groups; all tensors have one shape with the nodes along `dim`."""
    tensors = (*inputs, out)
    around = sorted((d for d in range(out.dim()) if d != dim), key=out.stride, reverse=True)
    rows = _merged(around, tensors)
    if len(rows) > 3:  # stranger than a slice of a head in any layout
        tensors = (*(empty_strided(out.shape, out.stride(), x).copy_(x) for x in inputs), out)
        rows = _merged(around, tensors)
    rows = [[1] + [0] * len(tensors)] * (3 - len(rows)) + rows
    R = rows[0][0] * rows[1][0] * rows[2][0]
    if not R:
        return out
    strides = [s for i, x in enumerate(tensors, 1) for s in (*(row[i] for row in rows), x.stride(dim))]
    for width, elements, has_wider, groups in _classes(structure, out.device, TILES):
        G, columns = groups.shape
        # the tile goes where the memory goes, and the other way only as far as it has elements left
        room = max(1, elements // width)
        if inputs[0].stride(dim) == 1:
            per_group = min(room, triton.next_power_of_2(G))
            per_row = room // per_group
        else:
            per_row = min(room, triton.next_power_of_2(R))
            per_group = room // per_row
        launch(
            kernel,
            (triton.cdiv(G, per_group) * triton.cdiv(R, per_row),),
            *tensors, groups, G, columns, R, rows[1][0], rows[2][0], *strides,
            WIDTH=width, GROUPS=per_group, ROWS=per_row, **({"WIDER": has_wider} if wider else {}),
            **constants,
        )  # fmt: skip
    return out


def _like(x: Tensor) -> Tensor:
    """Memory for a result, in the order of `x`'s strides."""
    return empty_strided(x.shape, torch.empty_like(x, device="meta").stride(), x)


def tree_softmax(scores: Tensor, structure: str, dim: int) -> Tensor:
    """Softmax over every sibling group along `dim`, laid out as `scores` is."""
    return _run(_softmax_kernel, structure, dim, _like(scores), scores)


def tree_softmax_grad(probs: Tensor, grad: Tensor, structure: str, dim: int) -> Tensor:
    """dL/d(scores) from `tree_softmax`'s result and dL/d(that), laid out as the result is."""
    return _run(_softmax_grad_kernel, structure, dim, _like(probs), probs, grad)


def absolute_probability(conditional: Tensor, structure: str, dim: int) -> Tensor:
    """Products from the root down to every node along `dim`, laid out as `conditional` is."""
    return _run(_absolute_kernel, structure, dim, _like(conditional), conditional, wider=False, STEPS=STEPS)
