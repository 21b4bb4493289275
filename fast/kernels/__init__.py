"""The Triton kernels behind `fast`, one file for each of its operations.

A file is read from top to bottom: the kernels, with the bytes they move, then the function that launches
them. Nothing here decides whether to run; `fast` does.
"""
