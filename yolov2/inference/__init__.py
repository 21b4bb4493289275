"""Pictures in, detections out, fast: what `yolov2.Predictor` is made of.

`folded` makes the network smaller, `engines` run it, `pipeline` puts the whole way from bytes to boxes into
one CUDA graph, `ahead` reads pictures while others are computed, `predictor` joins them.
"""
