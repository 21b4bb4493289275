"""The hot paths of YOLOv2 on torch tensors: the same names, arguments and meaning as `reference`.

Nothing here imports the mathematics of `reference` (an oracle must not check itself); the two wings share
only the vocabulary in `reference.region` and `reference.layers`.
"""
