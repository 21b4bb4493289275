"""Letterbox: batches of any sizes, both modes, layouts and every dtype; also as an operator of torch."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fast.image
import fast.letterbox
import reference.letterbox
from fast.letterbox import Packed, letterbox_packed, pack
from reference.image import GREY, load_normalise, resize
from tests.backends import each_backend, each_kernel_backend, equivalence
from tests.equivalence import close, equal
from tests.golden import GOLDEN, cases
from yolov2.letterbox import network_input

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MODES = ["letterbox", "stretch"]
#: bytes that rounding treats differently, among random ones
PIXELS = st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
#: height, width: mostly small, sometimes a line or nearly one
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12)) | st.sampled_from(
    [(1, 60), (60, 1), (2, 61), (61, 2), (1, 1), (40, 30)]
)
PICTURES = SHAPES.flatmap(lambda shape: arrays(np.uint8, (*shape, 3), elements=PIXELS))
INPUTS = st.tuples(st.integers(1, 24), st.integers(1, 16))


def oracle(pixels, width, height, mode="letterbox", dtype=np.float32):
    """The input (3, height, width) for one picture; a line, which the oracle refuses, keeps one pixel."""
    image = load_normalise(pixels, dtype)
    if mode == "stretch":
        return resize(image, width, height)
    try:
        return reference.letterbox.letterbox(image, width, height)
    except ValueError:
        wide = pixels.shape[1] > pixels.shape[0]
        canvas = np.full((3, height, width), GREY, dtype)
        w, h = (width, 1) if wide else (1, height)
        y, x = (height - h) // 2, (width - w) // 2
        canvas[:, y : y + h, x : x + w] = resize(image, w, h)
        return canvas


def oracles(pictures, width, height, mode="letterbox", dtype=np.float32):
    found = [oracle(p, width, height, mode, dtype) for p in pictures]
    return np.stack(found) if found else np.zeros((0, 3, height, width), dtype)


def packed_on(backend, pictures, width, height, mode="letterbox"):
    """Pictures where the backend runs, followed by bytes that belong to none."""
    packed = pack([torch.from_numpy(p) for p in pictures], width, height, mode)
    buffer = torch.cat([packed.buffer, torch.full((100,), 85, dtype=torch.uint8)])
    return packed._replace(buffer=buffer.to(backend.device))


@equivalence(
    examples=300,
    pictures=st.lists(PICTURES, max_size=3),
    size=INPUTS,
    mode=st.sampled_from(MODES),
    channels_last=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_letterbox(backend, pictures, size, mode, channels_last, dtype):
    got = letterbox_packed(packed_on(backend, pictures, *size, mode), dtype, channels_last)
    twin, longest = oracles(pictures, *size, mode), max((max(p.shape) for p in pictures), default=0)
    # a position among n pixels is off by n roundings, the other operations by 8; halves are rounded once
    k = 8 + longest if dtype == torch.float32 else 1
    close(got, oracles(pictures, *size, mode, np.float64), twin, k)
    assert got.dtype == dtype and got.device.type == backend.device.type
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert got.is_contiguous(memory_format=layout)
    if backend.kernels and (dtype != torch.bfloat16 or backend.name == "triton-cuda"):
        # the kernel computes what the oracle does, bit for bit; Triton's interpreter cuts bfloat16 off
        equal(got.float(), torch.from_numpy(twin).to(dtype).float().numpy())


@equivalence(examples=100, picture=PICTURES, size=INPUTS, mode=st.sampled_from(MODES))
def test_one_picture(backend, picture, size, mode):
    image = (
        torch.from_numpy(picture.transpose(1, 0, 2).copy()).transpose(0, 1).to(backend.device)
    )  # any strides
    got = fast.letterbox.letterbox(image, *size, mode)
    equal(got, letterbox_packed(packed_on(backend, [picture], *size, mode))[0].cpu().numpy())


@each_kernel_backend
def test_every_byte_is_divided_exactly(backend):
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    with backend:
        got = letterbox_packed(packed_on(backend, [pixels], 16, 16))
    equal(got[0], load_normalise(pixels))


@each_kernel_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_programs_meet_without_a_seam(backend, channels_last, monkeypatch):
    """Several blocks along a row and strips of rows, the last ones not full."""
    import fast.kernels.letterbox as kernel

    monkeypatch.setattr(kernel, "BLOCK", 16)
    monkeypatch.setattr(kernel, "ROWS", 5)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((9, 31), (30, 7))]
    with backend:
        got = letterbox_packed(packed_on(backend, pictures, 22, 18), channels_last=channels_last)
    equal(got, oracles(pictures, 22, 18))


def test_table_by_hand():
    small, wide = (
        torch.arange(12, dtype=torch.uint8).view(2, 2, 3),
        torch.full((1, 4, 3), 9, dtype=torch.uint8),
    )
    packed = pack([small, wide], 6, 4)
    # two rows of 7 numbers of 8 bytes come first; 2x2 becomes 4x4, 4x1 becomes 6x1 (1.5, down)
    assert packed.table.tolist() == [[112, 2, 2, 4, 4, 1, 0], [124, 1, 4, 6, 1, 0, 1]]
    assert packed.buffer[112:].tolist() == [*range(12), *[9] * 12]
    assert pack([small], 6, 4, "stretch").table.tolist() == [[56, 2, 2, 6, 4, 0, 0]]
    assert pack([], 6, 4).buffer.numel() == 0


def test_nonsense_is_refused():
    picture = torch.zeros(4, 5, 3, dtype=torch.uint8)
    for wrong in (picture.float(), picture[0], picture.permute(2, 0, 1)):
        for call in (fast.letterbox.letterbox, lambda p, w, h: pack([p], w, h)):
            with pytest.raises(ValueError, match="uint8"):
                call(wrong, 8, 8)
    with pytest.raises(ValueError, match="0x4 picture"):
        pack([picture[:, :0]], 8, 8)
    with pytest.raises(ValueError, match="crop"):
        pack([picture], 8, 8, "crop")
    for call in (fast.letterbox.letterbox, lambda p, w, h, dtype: letterbox_packed(pack([p], w, h), dtype)):
        with pytest.raises(ValueError, match="float64"):
            call(picture, 8, 8, dtype=torch.float64)


SIDES = st.integers(1, 5000)


@example((16997, 17025), (607, 608))  # 607 / 16997 < 608 / 17025, but not in float32
@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 1024), st.integers(1, 1024)))
def test_sizes_are_the_oracles(picture, network):
    got = fast.letterbox.letterbox_size(picture, network)
    try:
        assert got == reference.letterbox.letterbox_size(picture, network)
    except ValueError:
        assert 1 in got and (got[0] == network[0] or got[1] == network[1])


@given(PICTURES, INPUTS)
def test_resize(pixels, size):
    got = fast.image.resize(torch.from_numpy(load_normalise(pixels)), *size)
    close(
        got,
        resize(load_normalise(pixels, float), *size),
        resize(load_normalise(pixels), *size),
        k=8 + max(pixels.shape),
    )


def sample(backend):
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((5, 9), (8, 3))]
    return pictures, packed_on(backend, pictures, 8, 6)


@each_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_an_operator(backend, channels_last):
    _, packed = sample(backend)
    with backend:
        torch.library.opcheck(fast.letterbox._letterbox.op, (*packed, torch.float16, channels_last))


@each_backend
def test_it_compiles_and_exports_in_one_piece(backend):
    class Input(torch.nn.Module):
        def forward(self, buffer):
            return letterbox_packed(Packed(buffer, 2, 8, 6), torch.float32, channels_last=True) * 2

    pictures, packed = sample(backend)
    with backend:
        compiled = torch.compile(Input(), fullgraph=True, backend="aot_eager")(packed.buffer)
        # the buffer may have any length
        length = {"buffer": {0: torch.export.Dim("bytes", min=64)}}
        exported = torch.export.export(Input(), (packed.buffer,), dynamic_shapes=length).module()
        longer = torch.cat([packed.buffer, packed.buffer])
        results = compiled, exported(longer)
    for got in results:
        close(got, 2 * oracles(pictures, 8, 6, dtype=np.float64), 2 * oracles(pictures, 8, 6), k=16)
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_graph_takes_the_next_batch():
    """Other pictures, of other sizes, through the same captured launch."""
    rng = np.random.default_rng(2)
    batches = [
        [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        for shapes in (((50, 90), (80, 30)), ((200, 100), (33, 77)))
    ]
    packs = [pack([torch.from_numpy(p) for p in pictures], 64, 48, pin=True) for pictures in batches]
    static = packs[0]._replace(buffer=torch.zeros(1 << 20, dtype=torch.uint8, device="cuda"))
    static.buffer[: len(packs[0].buffer)].copy_(packs[0].buffer)
    letterbox_packed(static)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = letterbox_packed(static)
    for pictures, packed in zip(batches, packs, strict=True):
        static.buffer[: len(packed.buffer)].copy_(packed.buffer, non_blocking=True)
        graph.replay()
        close(got, oracles(pictures, 64, 48, dtype=np.float64), oracles(pictures, 64, 48), k=16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the other way to the input needs a GPU")
@pytest.mark.parametrize("mode", MODES)
def test_the_product_makes_the_same_input_on_a_gpu(mode):
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((50, 90), (80, 30))]
    cpu, gpu = (network_input(pictures, 64, 48, mode, torch.device(d)) for d in ("cpu", "cuda"))
    assert gpu.is_cuda and gpu.stride() == cpu.stride()
    np.testing.assert_allclose(gpu.cpu().numpy(), cpu.numpy(), atol=1e-5)


@each_backend
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
@pytest.mark.parametrize("width, height", [(104, 104), (160, 96), (96, 160)])
def test_pixels_equal_darknets(backend, width, height):
    case = next(c for c in cases() if c.file == "image/dog.npz")
    key = f"letterbox_{width}" if width == height else f"letterbox_{width}x{height}"
    with backend:
        got = letterbox_packed(packed_on(backend, [case["image_u8"]], width, height), channels_last=True)
    np.testing.assert_allclose(got[0].cpu().numpy(), case[key], atol=1e-5)
