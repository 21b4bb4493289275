"""JPEGs decoded by stb_image, bit for bit as Darknet decodes them (``YOLOV2_DECODER=stb``).

No two decoders agree on a JPEG: Pillow and OpenCV share libjpeg-turbo, whose pixels differ from stb_image's
by up to 3 of 255 levels, which moves scores by up to .005. For numbers that equal Darknet's own, stb_image is
needed; in Python it comes with raylib (the extra ``exact``).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from yolov2.errors import UserError


def decode_jpeg(path: Path) -> Image.Image:
    """The RGB picture in a JPEG file.

    Raises
    ------
    UserError
        If raylib is not installed.
    OSError
        If the file is damaged.
    """
    try:
        from raylib import ffi, rl
    except ImportError:
        raise UserError('YOLOV2_DECODER=stb needs raylib: pip install "yolov2[exact]"') from None
    rl.SetTraceLogLevel(rl.LOG_NONE)
    data = path.read_bytes()
    image = rl.LoadImageFromMemory(b".jpg", data, len(data))
    try:
        rl.ImageFormat(ffi.addressof(image), rl.PIXELFORMAT_UNCOMPRESSED_R8G8B8)
        size = image.width * image.height * 3
        if not size or image.data == ffi.NULL:
            raise OSError(f"{path}: stb_image cannot decode it")
        pixels = np.frombuffer(ffi.buffer(image.data, size), np.uint8)
        return Image.fromarray(pixels.reshape(image.height, image.width, 3).copy())
    finally:
        rl.UnloadImage(image)
