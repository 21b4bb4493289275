"""Training pictures on the GPU: any place, colour and symmetry, every dtype and layout; as an operator."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fast.augment
import reference.augment
from fast.augment import Placed, augment, detection_example
from reference.augment import Draws
from reference.image import GREY, distort, flip, load_normalise, place, rgb_to_hsv
from tests.backends import BACKENDS, KERNELS, each_backend, each_kernel_backend, equivalence
from tests.equivalence import close
from tests.equivalence.test_kernel_mutations import kernels_with
from tests.equivalence.test_letterbox import DTYPES, INPUTS, PICTURES
from tests.golden import GOLDEN, cases

NO_CHANGE = (0.0, 1.0, 1.0)
#: some change nothing, some turn the circle once, some saturate
COLOURS = st.tuples(
    st.sampled_from([0.0, 0.1, -0.1, 1 / 3, -1.0]) | st.floats(-1, 1),
    st.sampled_from([0.0, 1.0, 1.5, 2 / 3]) | st.floats(0, 3),
    st.sampled_from([0.0, 1.0, 1.5, 2 / 3]) | st.floats(0, 3),
)
SIDES = st.integers(0, 40)
PLACES = st.tuples(SIDES, SIDES, *[st.integers(-20, 20)] * 2, *[st.booleans()] * 3)
WORK = st.lists(st.tuples(PICTURES, PLACES, COLOURS), max_size=3)


def oracle(pixels, at, colour, width, height, dtype=np.float32):
    """(3, height, width) as the oracle places, recolours and mirrors."""
    colour = [dtype(c) for c in colour]
    drawn = distort(_placed(pixels, at, width, height, dtype), *colour)
    drawn = flip(drawn) if at.mirror else drawn
    return drawn[:, ::-1] if at.flip_vertical else drawn


def _placed(pixels, at, width, height, dtype):
    image, canvas = load_normalise(pixels, dtype), np.full((3, height, width), GREY, dtype)
    image = image.transpose(0, 2, 1) if at.transpose else image
    return place(image, at.width, at.height, at.x, at.y, canvas)


def undecided(pixels, at, colour, width, height):
    """Where a hue is, or may be rounded to, exactly 1, for which the oracle has its own colour."""
    hue = rgb_to_hsv(_placed(pixels, at._replace(mirror=False), width, height, np.float64))[0]
    near = np.abs(hue + colour[0] - np.rint(hue + colour[0])) < 1e-5
    near &= (hue != 0) | (colour[0] != 0)
    near = near[:, ::-1] if at.mirror else near
    return near[::-1] if at.flip_vertical else near


def on(backend, work):
    """Pictures apart from each other in a buffer, table and colours; all where the backend runs."""
    buffer, rows, colours = [torch.full((5,), 85, dtype=torch.uint8)], [], []
    for pixels, at, colour in work:
        start = sum(map(len, buffer))
        rows.append([*at._replace(start=start, rows=pixels.shape[0], columns=pixels.shape[1])])
        colours.append(colour)
        buffer += [torch.from_numpy(pixels).flatten(), torch.full((7,), 85, dtype=torch.uint8)]
    table = torch.tensor(rows, dtype=torch.int64).view(-1, len(Placed._fields))
    shades = torch.tensor(colours, dtype=torch.float32).view(-1, 3)
    return [x.to(backend.device) for x in (torch.cat(buffer), table, shades)]


def check(backend, work, width, height, dtype=torch.float32, channels_last=False):
    """`work` is (pixels, `Placed` but for the first three fields, colour) of every picture."""
    got = augment(*on(backend, work), width, height, dtype, channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert got.dtype == dtype and got.device.type == backend.device.type
    assert got.shape == (len(work), 3, height, width) and got.is_contiguous(memory_format=layout)
    for picture, (pixels, at, colour) in zip(got, work, strict=True):
        near = undecided(pixels, at, colour, width, height)
        truth, twin = (
            np.where(near, 0, oracle(pixels, at, colour, width, height, kind))
            for kind in (np.float64, np.float32)
        )
        # A position among n pixels is off by n roundings and so may be the sample; a hue multiplies what
        # samples lost by up to 6, and then come the factors.
        k = 8 + max(pixels.shape) if dtype == torch.float32 else 1
        grown = 1 if dtype != torch.float32 else max(1.0, colour[2] * (1 + 6 * colour[1]))
        close(picture.where(~torch.from_numpy(near.copy()).to(picture.device), 0), truth, twin, k, grown)


def placed(width, height, x=0, y=0, *symmetry):
    return Placed(0, 0, 0, width, height, x, y, *symmetry)


@equivalence(
    examples=160,
    work=WORK,
    size=INPUTS,
    channels_last=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_augment(backend, work, size, channels_last, dtype):
    work = [(pixels, placed(*at), tuple(map(float, np.float32(colour)))) for pixels, at, colour in work]
    check(backend, work, *size, dtype, channels_last)


@each_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_eight_symmetries(backend, channels_last):
    """All 256 levels, no change but of places: what comes out is what went in, over 255."""
    rng = np.random.default_rng(0)
    pixels = rng.permutation(np.arange(8 * 11 * 3) % 256).astype(np.uint8).reshape(8, 11, 3)
    for transpose in (False, True):
        want = (
            load_normalise(pixels, float).transpose(0, 2, 1) if transpose else load_normalise(pixels, float)
        )
        height, width = want.shape[1:]
        flags = [(m, v, transpose) for m in (False, True) for v in (False, True)]
        work = [(pixels, placed(width, height, 0, 0, *f), NO_CHANGE) for f in flags]
        with backend:
            got = augment(*on(backend, work), width, height, channels_last=channels_last)
        for picture, (mirror, upside_down, _) in zip(got, flags, strict=True):
            turned = want[:, :: -1 if upside_down else 1, :: -1 if mirror else 1]
            np.testing.assert_allclose(picture.cpu().numpy(), turned, rtol=2e-7)


@each_backend
def test_hues_by_hand(backend):
    red = np.uint8([[[255, 0, 0]]])
    with backend:

        def pixel(pixels, hue, saturation=1.0, exposure=1.0):
            work = [(pixels, placed(pixels.shape[1], pixels.shape[0]), (hue, saturation, exposure))]
            return augment(*on(backend, work), 1, 1)[0, :, 0, 0].tolist()

        assert pixel(red, 1 / 3) == pytest.approx([0, 1, 0], abs=1e-6)
        assert pixel(red, -0.5, 0.5) == pytest.approx([0.5, 1, 1], abs=1e-6)
        # Darknet's own knows six sextants and turns red into magenta at the end of the last
        assert pixel(red, 1.0) == pixel(red, 0.0) == [1, 0, 0]
    np.testing.assert_array_equal(distort(load_normalise(red), 1.0, 1, 1).ravel(), [1, 0, 1])


@each_kernel_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_programs_meet_without_a_seam(backend, channels_last, monkeypatch):
    """Several blocks along a row and strips of rows, the last ones not full."""
    import fast.kernels.augment as kernel

    monkeypatch.setattr(kernel, "BLOCK", 16)
    monkeypatch.setattr(kernel, "ROWS", 5)
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((9, 31), (30, 7)))
    work = [
        (one, placed(50, 22, -4, -3, True), (0.08, 1.4, 0.75)),
        (other, placed(25, 11, 5, 3, False, True, True), (-0.06, 0.7, 1.4)),
    ]
    with backend:
        check(backend, work, 40, 18, channels_last=channels_last)


#: a photograph reaching beyond all edges but the left one, turned every way
PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (11, 14, 3), dtype=np.uint8)
TURNED = [(PHOTOGRAPH, placed(18, 21, 3, -2, True, True, True), (0.1, 1.5, 0.7))]
WHOLE = [(PHOTOGRAPH, placed(20, 9, 1, 2), (-0.1, 0.7, 1.4))]
MISTAKES = {
    "the last pixel goes on": ("tl.where(inside, share, 0.0)", "share", WHOLE),
    "the canvas keeps its grey": ("GREY * exposure", "GREY", WHOLE),
    "mirrored about the picture": ("W_out - 1 - at, at) - x0", "w - 1 - at, at) - x0", TURNED),
    "transposed without its steps": ("tl.where(transpose != 0, W * 3, 3)", "3", TURNED),
    "first channel for the third": ("to // 3 * 4 + to % 3", "to // 3 * 4 + to % 2", WHOLE),
    "hue not wrapped": ("tl.where(hue < 0, hue + circle, hue))", "hue)", WHOLE),
    "sextants of another channel": ("tl.fma(spread, -2.0, hue)", "tl.fma(spread, -4.0, hue)", WHOLE),
}


@pytest.mark.skipif(
    [b.name for b in KERNELS] != ["triton-interpret"], reason="needs Triton's interpreter: TRITON_INTERPRET=1"
)
@pytest.mark.parametrize(("old", "new", "work"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_noticed(old, new, work, tmp_path):
    """Put into a copy of the kernel; without one the copy passes."""
    (backend,) = KERNELS
    with kernels_with("augment", old, old, tmp_path), backend:
        check(backend, work, 24, 14, channels_last=True)
    with kernels_with("augment", old, new, tmp_path), pytest.raises(AssertionError), backend:
        check(backend, work, 24, 14, channels_last=True)


@equivalence(
    examples=60,
    picture=PICTURES,
    seed=st.integers(0, 10**6),
    size=INPUTS,
    boxes=st.integers(0, 40),
)
def test_one_example_draw_for_draw(backend, picture, seed, size, boxes):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, boxes, 2)), axis=0)
    labels = np.concatenate([np.arange(boxes)[:, None], (low + high) / 2, high - low], 1).astype(np.float32)
    labels[:1, 1:] = 0  # a class without a box
    want, truth = reference.augment.detection_example(
        load_normalise(picture), labels, Draws.from_generator(np.random.default_rng(seed)), *size
    )
    image, draws = (
        torch.from_numpy(picture).to(backend.device),
        Draws.from_generator(np.random.default_rng(seed)),
    )
    got, rows = detection_example(image, torch.from_numpy(labels).to(backend.device), draws, *size)
    np.testing.assert_array_equal(rows.cpu(), truth)
    assert np.quantile(np.abs(got.cpu().numpy() - want), 0.99) < 2e-5


@each_backend
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
def test_darknets_training_pictures(backend):
    wanted = [c for c in cases() if c.group == "augment" and c.config["kind"] == "detection"]
    assert len(wanted) == 4
    for case in wanted:
        c, log = case.config, iter(case["draws"])
        next(log)  # the loader's choice of the picture
        settings = {name: c[name] for name in ("jitter", "hue", "saturation", "exposure")}
        image, labels = torch.from_numpy(case["image_u8"]), torch.from_numpy(case["labels"]).float()
        with backend:
            got, truth = detection_example(
                image.to(backend.device), labels.to(backend.device), Draws(log), c["net_w"], c["net_h"],
                **settings, max_labels=c["num_boxes"],
            )  # fmt: skip
        assert not list(log)
        np.testing.assert_allclose(truth.cpu(), case["truth"], atol=1e-6)
        np.testing.assert_allclose(got.cpu(), case["output"], atol=1e-5)


def sample(backend):
    return on(backend, [*WHOLE, *TURNED])


@each_backend
def test_it_is_an_operator(backend):
    with backend:
        torch.library.opcheck(fast.augment._augment.op, (*sample(backend), 24, 14, torch.float16, True))


@each_backend
def test_it_compiles_and_exports_in_one_piece(backend):
    class Pictures(torch.nn.Module):
        def forward(self, buffer, table, colour):
            return augment(buffer, table, colour, 24, 14, channels_last=True) * 2

    with backend:
        given = sample(backend)
        want = Pictures()(*given)
        compiled = torch.compile(Pictures(), fullgraph=True, backend="aot_eager")(*given)
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(
            Pictures(), tuple(given), dynamic_shapes=(None, {0: batch}, {0: batch})
        )
        one = exported.module()(given[0], given[1][:1], given[2][:1])
    for got, expected in ((compiled, want), (one, want[:1])):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_nonsense_is_refused():
    buffer, table, colour = sample(BACKENDS[0])
    for wrong in (
        (buffer.int(), table, colour),
        (buffer, table.int(), colour),
        (buffer, table, colour.double()),
        (buffer, table[:, :9].contiguous(), colour),
        (buffer, table, colour[:1]),
        (buffer.view(-1, 1), table, colour),
        (buffer[::2], table, colour),
    ):
        with pytest.raises(ValueError, match="needed"):
            augment(*wrong, 8, 8)
    with pytest.raises(ValueError, match="float64"):
        augment(buffer, table, colour, 8, 8, torch.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_graph_takes_the_next_batch_and_nothing_waits():
    """Other pictures, placed and coloured otherwise, through the same captured launch."""
    backend = next(b for b in KERNELS if b.name == "triton-cuda")
    batches = [on(backend, WHOLE), on(backend, TURNED)]
    want = [augment(*batch, 24, 14) for batch in batches]  # compiles
    static = [x.clone() for x in batches[0]]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(*static, 24, 14)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = augment(*static, 24, 14)
    for batch, expected in zip(batches, want, strict=True):
        for held, x in zip(static, batch, strict=True):
            held.copy_(x)
        graph.replay()
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
