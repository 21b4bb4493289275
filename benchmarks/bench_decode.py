"""Raw head to boxes and probabilities, dense and thresholded: a value read once, a result written once."""

import pytest
import torch

import fast.decode
import reference.decode
from benchmarks.inputs import COCO, VOC, close, head_in, trained_head
from benchmarks.peers import COPIES
from benchmarks.timing import BATCHES, CUDA, Race, nbytes
from fast.decode import decode, decode_candidates, split_head

REGIONS = {"VOC": VOC, "COCO": COCO}
FORMS = ["fp32 nchw", "fp16 nhwc"] if CUDA else ["fp32 nchw"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", REGIONS)
@pytest.mark.parametrize("batch", BATCHES)
def test_decode(benchmark, batch, data, form):
    region = REGIONS[data]
    head = head_in(form, trained_head(batch, region))
    numbers = head.float().cpu().numpy()
    want = reference.decode.decode(numbers, region)

    def check(got):
        for a, b in zip(got, want, strict=True):
            close(a, b)

    race = Race("decode", f"{data} 13x13, B{batch}, {form}", batch, check)
    race.ours(lambda: decode(head, region), torch_graph=COPIES)
    if CUDA or (data == "VOC" and batch == 1):
        race.compiled(lambda x: fast.decode._decode_torch(split_head(x, region), region), head)
    if not CUDA:
        race.peer("oracle", lambda: reference.decode.decode(numbers, region))
    race.run(benchmark, nbytes(head, *decode(head, region)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", BATCHES)
def test_candidates(benchmark, batch, form):
    """Only what passes the threshold; its classes are all that must be read beside the objectness."""
    region = COCO
    head = head_in(form, trained_head(batch, region))
    numbers = head.float().cpu().numpy()
    want = reference.decode.decode_candidates(numbers, region, 0.25, 300)

    def check(got):
        for a, b in zip(got, want, strict=True):
            close(a, b)

    race = Race("candidates above .25", f"COCO 13x13, B{batch}, {form}", batch, check)
    race.ours(lambda: decode_candidates(head, region, 0.25, 300), torch_graph=COPIES)
    if not CUDA:
        race.peer("oracle", lambda: reference.decode.decode_candidates(numbers, region, 0.25, 300))
    values = head.numel() // (5 + region.classes) + int(want.count.sum()) * (4 + region.classes)
    out = torch.empty(batch, 300, 4 + 1 + 2 + 2, dtype=torch.float32)
    race.run(benchmark, values * head.element_size() + nbytes(out))
