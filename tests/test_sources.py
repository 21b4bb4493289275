"""Every kind of source gives the same RGB frames, one at a time."""

import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from yolov2.data.dataset import TURNS, open_upright
from yolov2.errors import Complaints, UserError
from yolov2.letterbox import pixels
from yolov2.sources import Frame, find_pictures, open_source

cv2 = pytest.importorskip("cv2", reason='NO PROOF WITH VIDEOS: pip install -e ".[test]"')

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def save(path, array=RGB, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def arrays(source, **options):
    return [np.asarray(frame.picture) for frame in open_source(source, **options)]


def paths(source, **options):
    return [frame.path for frame in open_source(source, **options)]


def assert_frames(source, *expected, **options):
    """The source's frames are these arrays, and what the network's input is made of takes them."""
    opened = open_source(source, **options)
    assert (opened.count, len(opened), opened.streaming) == (len(expected), len(expected), False)
    frames = list(opened)
    assert [frame.index for frame in frames] == list(range(len(expected)))
    for frame, array in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(frame.picture), array)
        np.testing.assert_array_equal(pixels(frame.picture).numpy(), array)


class TestFiles:
    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_picture(self, tmp_path, kind):
        path = save(tmp_path / "a.png")
        assert_frames(kind(path), RGB)
        (frame,) = open_source(kind(path))
        assert isinstance(frame, Frame) and (frame.path, frame.index) == (str(path), 0)

    def test_suffixes_of_explicit_files_do_not_matter(self, tmp_path):
        path = save(tmp_path / "a.png").rename(tmp_path / "a.dat")
        assert_frames(path, RGB)

    def test_a_folder_in_order(self, tmp_path):
        files = [save(tmp_path / name) for name in ("a/1.png", "a/b/2.BMP", "c.png")]
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / "clip.avi").write_text("not looked for")
        assert paths(tmp_path) == paths(str(tmp_path)) == [str(p) for p in find_pictures([tmp_path])]
        assert paths(tmp_path) == [str(p) for p in files]

    def test_patterns(self, tmp_path, monkeypatch):
        for name in ("b.png", "a.png", "c.bmp", "deep/er/d.png", "e.txt"):
            (save if name != "e.txt" else Path.touch)(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert paths("*.png") == ["a.png", "b.png"]
        assert paths(str(tmp_path / "[bc].*")) == [str(tmp_path / name) for name in ("b.png", "c.bmp")]
        assert paths(Path("**/?.png")) == ["a.png", "b.png", str(Path("deep/er/d.png"))]
        assert len(open_source("**")) == 4

    def test_a_name_that_looks_like_a_pattern(self, tmp_path):
        save(tmp_path / "a1.png")
        assert paths(save(tmp_path / "a[1].png")) == [str(tmp_path / "a[1].png")]

    def test_a_list_in_a_file(self, tmp_path):
        inside, outside = save(tmp_path / "lists/in er.png"), save(tmp_path / "out.png")
        file = tmp_path / "lists" / "val.txt"
        file.write_bytes(f"in er.png\r\n\r\n  ../out.png \n{outside}\n".encode("utf-8-sig"))
        assert_frames(file, RGB, RGB, RGB)
        assert [Path(p).resolve() for p in paths(str(file))] == [inside, outside, outside]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, tmp_path, orientation):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        upright = RGB if orientation == 1 else np.asarray(Image.fromarray(RGB).transpose(TURNS[orientation]))
        for suffix in (".png", ".tif", ".webp"):
            path = save(
                tmp_path / f"a{suffix}", exif=exif, **({"lossless": True} if suffix == ".webp" else {})
            )
            np.testing.assert_array_equal(np.asarray(open_upright(path)), upright)
            assert_frames(path, upright)
            with Image.open(path) as file:  # not decoded yet
                assert_frames(file, upright)
            with Image.open(path) as file:
                file.load()
                assert_frames(file, upright)
                assert_frames(file, upright)  # the caller's own picture is as it was
            (frame,) = open_source(path)
            assert_frames(frame.picture, upright)  # a frame is a source too, and not turned again

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_picture_with_damaged_exif(self, tmp_path):
        path = save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        with Image.open(path) as file:
            assert_frames(file, RGB)


class TestMemory:
    def test_array(self):
        assert_frames(RGB, RGB)
        assert_frames(RGB, RGB[..., ::-1], order="bgr")
        assert paths(RGB) == ["image0"]

    def test_rgb_is_not_copied(self):
        (frame,) = open_source(RGB)
        assert np.shares_memory(frame.picture, RGB)

    def test_grey_and_alpha(self):
        grey, alpha = RGB[..., 0], np.concatenate([RGB, RGB[..., :1]], 2)
        for order, expected in (("rgb", RGB), ("bgr", RGB[..., ::-1])):
            assert_frames(grey, np.stack([grey] * 3, 2), order=order)
            assert_frames(alpha, expected, order=order)

    def test_batches(self):
        batch = np.stack([RGB, RGB + 1, RGB + 2])
        assert_frames(batch, *batch)
        assert_frames(batch, *batch[..., ::-1], order="bgr")
        assert_frames(batch[:0])
        assert paths(batch) == ["image0", "image1", "image2"]
        assert_frames(np.concatenate([batch, batch[..., :1]], 3), *batch)

    def test_pil(self, tmp_path):
        assert_frames(Image.fromarray(RGB), RGB)
        assert_frames(Image.fromarray(RGB).convert("RGBA"), RGB)
        assert_frames(Image.fromarray(RGB[..., 0]), np.stack([RGB[..., 0]] * 3, 2))
        with Image.open(save(tmp_path / "a.png")) as file:
            assert paths([RGB, file, RGB]) == ["image0", str(tmp_path / "a.png"), "image2"]

    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
    )
    def test_tensor(self, dtype):
        planes = torch.from_numpy(RGB).permute(2, 0, 1)
        planes = planes if dtype == torch.uint8 else (planes.double() / 255).to(dtype)
        assert_frames(planes, RGB)
        assert_frames(torch.stack([planes, planes.flip(0)]), RGB, RGB[..., ::-1])
        assert_frames(planes[None][:0])

    def test_every_level_survives_a_tensor(self):
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
        assert_frames(torch.from_numpy(levels).permute(2, 0, 1).float() / 255, levels)

    def test_tensor_with_a_gradient_and_a_little_overshoot(self):
        planes = torch.tensor([-1e-4, 1 + 1e-4]).reshape(1, 1, 2).expand(3, 1, 2).clone().requires_grad_()
        assert_frames(planes, np.array([[[0] * 3, [255] * 3]], np.uint8))

    def test_order_is_of_arrays_only(self, tmp_path):
        tensor = torch.from_numpy(RGB).permute(2, 0, 1)
        mixed = [RGB, tensor, Image.fromarray(RGB), save(tmp_path / "a.png")]
        assert_frames(mixed, RGB[..., ::-1], RGB, RGB, RGB, order="bgr")

    @given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 2**32 - 1))
    def test_arrays_and_tensors_agree(self, b, h, w, bgr, seed):
        batch = np.random.default_rng(seed).integers(0, 256, (b, h, w, 3), np.uint8)
        given_batch, order = (batch[..., ::-1], "bgr") if bgr else (batch, "rgb")
        assert_frames(given_batch, *batch, order=order)
        assert_frames(list(given_batch), *batch, order=order)
        planes = torch.from_numpy(batch).permute(0, 3, 1, 2)
        assert_frames(planes, *batch)
        assert_frames(planes.float() / 255, *batch)


class TestMixed:
    def test_list(self, tmp_path):
        folder = save(tmp_path / "folder/a.png").parent
        file = save(tmp_path / "b.png")
        mixed = (
            str(file),
            folder,
            str(tmp_path / "*.png"),
            RGB,
            np.stack([RGB, RGB]),
            [Image.fromarray(RGB)],
        )
        assert_frames(mixed, *[RGB] * 7)
        names = [str(file), str(folder / "a.png"), str(file), "image3", "image4", "image5", "image6"]
        assert paths(mixed) == names

    def test_nothing_is_no_mistake(self):
        assert_frames([])
        assert not open_source([]) and open_source([RGB])

    def test_again_and_again(self, tmp_path):
        source = open_source([save(tmp_path / "a.png"), RGB])
        assert [f.index for f in source] == [f.index for f in source] == [0, 1]


class TestBroken:
    def test_single(self, tmp_path):
        (tmp_path / "a.png").write_text("no picture")
        source = open_source(tmp_path / "a.png")
        with pytest.raises(UserError, match=r"a\.png: cannot be read as a picture"):
            list(source)

    def test_single_image_object(self, tmp_path):
        path = save(tmp_path / "a.bmp", np.zeros((50, 50, 3), np.uint8))
        path.write_bytes(path.read_bytes()[:-2000])
        with Image.open(path) as file, pytest.raises(UserError, match=r"a\.bmp: cannot be read"):
            list(open_source(file))

    @pytest.mark.parametrize("kind", ["folder", "pattern", "list", "file"])
    def test_left_out_and_counted(self, tmp_path, kind, capsys):
        files = [save(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png")]
        files[0].write_bytes(b"")
        files[2].write_bytes(files[2].read_bytes()[:50])
        (tmp_path / "all.txt").write_text("\n".join(f.name for f in files))
        source = {
            "folder": tmp_path,
            "pattern": f"{tmp_path}/*",
            "list": files,
            "file": tmp_path / "all.txt",
        }[kind]
        complaints = Complaints()
        opened = open_source(source, complaints=complaints)
        assert len(opened) == 4
        assert [(Path(f.path).name, f.index) for f in opened] == [("b.png", 0), ("d.png", 1)]
        assert complaints.counts == {"pictures cannot be read and were left out": 2}
        assert capsys.readouterr().err == ""
        assert len(list(open_source(source))) == 2  # nobody counts: told on stderr
        assert "left out: 2 (" in (err := capsys.readouterr().err) and "a.png" in err and "c.png" in err

    def test_all(self, tmp_path):
        for name in ("a.png", "b.png"):
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=r"all 2 files, e\.g\. .*a\.png"):
            list(open_source(tmp_path, complaints=Complaints()))

    def test_the_callers_mistakes_are_not_taken_for_broken_pictures(self, tmp_path):
        complaints = Complaints()
        frames = iter(open_source([save(tmp_path / "a.png"), RGB], complaints=complaints))
        next(frames)
        with pytest.raises(ValueError, match="mine"):
            frames.throw(ValueError("mine"))
        assert not complaints.counts


class TestRefused:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("gone.jpg", "gone.jpg: no such picture, video or folder"),
            (Path("gone/"), "gone: no such"),
            (["gone.jpg"], "gone.jpg: no such"),
            ("gone*.jpg", "gone*.jpg: matches no picture or video"),
            ("", "empty"),
            ("https://example.org/dog.jpg", "download"),
            ("http://example.org/", "download"),
            ("ftp://example.org/a.mp4", "not the URL of a stream"),
        ],
    )
    def test_files(self, source, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError) as refused:
            open_source(source)
        assert words in str(refused.value)

    def test_empty_folder(self, tmp_path):
        with pytest.raises(UserError, match="holds no pictures"):
            open_source(tmp_path)

    def test_lists_in_files(self, tmp_path):
        file = tmp_path / "list.txt"
        file.write_text("\n\n")
        with pytest.raises(UserError, match=r"list\.txt: names no pictures"):
            open_source(file)
        file.write_text("\ngone.png\n")
        with pytest.raises(UserError, match=r"list\.txt:2: gone\.png: no such"):
            open_source(file)
        file.write_bytes(b"\xff\xfe\xff")
        with pytest.raises(UserError, match=r"list\.txt: cannot be read"):
            open_source(file)

    @pytest.mark.parametrize("source", [None, 1.5, True, b"a.jpg", {"a.jpg"}, {}, iter([]), [None], object])
    def test_other_types(self, source):
        with pytest.raises(TypeError, match="a path of a picture"):
            open_source(source)

    @pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, object])
    def test_array_dtypes(self, dtype):
        with pytest.raises(TypeError, match="uint8"):
            open_source(RGB.astype(dtype))

    @pytest.mark.parametrize(
        "shape", [(), (4,), (4, 6, 2), (4, 6, 1), (1, 1, 4, 6, 3), (0, 6, 3), (2, 4, 0, 3), (0, 6)]
    )
    def test_array_shapes(self, shape):
        with pytest.raises(ValueError, match=r"got \("):
            open_source(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("shape", [(3, 4, 6), (2, 3, 4, 6)])
    def test_array_with_its_channels_first(self, shape):
        with pytest.raises(ValueError, match="moveaxis"):
            open_source(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int8])
    def test_tensor_dtypes(self, dtype):
        with pytest.raises(TypeError, match="uint8 or floats"):
            open_source(torch.zeros(3, 4, 6, dtype=dtype))

    @pytest.mark.parametrize("shape", [(), (4, 6), (4, 4, 6), (1, 1, 3, 4, 6), (3, 0, 6), (2, 3, 4, 0)])
    def test_tensor_shapes(self, shape):
        with pytest.raises(ValueError, match=r"got \("):
            open_source(torch.zeros(shape))

    def test_tensor_with_its_channels_last(self):
        with pytest.raises(ValueError, match="movedim"):
            open_source(torch.zeros(4, 6, 3))

    @pytest.mark.parametrize("value", [255.0, -0.1, 1.1, float("nan"), float("inf")])
    def test_tensor_range(self, value):
        tensor = torch.zeros(3, 4, 6)
        tensor[1, 2, 3] = value
        with pytest.raises(ValueError, match="divide by 255"):
            open_source(tensor)

    def test_order(self):
        with pytest.raises(ValueError, match='"rgb" or "bgr"'):
            open_source(RGB, order="RGB")

    def test_camera_number(self):
        with pytest.raises(ValueError, match="camera -1"):
            open_source(-1)


FRAMES = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video whose frame n is red of brightness 10 n."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for number in range(FRAMES):
        writer.write(np.full((48, 64, 3), (0, 0, 10 * number), np.uint8))  # BGR
    writer.release()
    return path


@pytest.fixture
def captures(monkeypatch):
    """Every capture that is opened, with the number of frames read from it and whether it was released."""
    opened = []

    class Watched:
        def __init__(self, source):
            self.capture, self.source, self.reads, self.released = original(source), source, 0, False
            opened.append(self)

        def isOpened(self):
            return self.capture.isOpened()

        def read(self):
            self.reads += 1
            return self.capture.read()

        def release(self):
            self.capture.release()
            self.released = True

    original = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    return opened


class TestVideo:
    @pytest.mark.parametrize("kind", [str, Path, lambda path: [path], lambda path: f"{path.parent}/*.avi"])
    def test_in_order_and_rgb(self, clip, kind, captures):
        source = open_source(kind(clip))
        assert source.streaming and source.count is None and source and not captures
        for number, frame in enumerate(source):
            assert (frame.index, frame.path) == (number, str(clip))
            assert frame.picture.shape == (48, 64, 3) and frame.picture.dtype == np.uint8
            red, green, blue = np.median(frame.picture, (0, 1))
            assert abs(red - 10 * number) < 6 and green < 6 and blue < 6  # JPEG
            assert pixels(frame.picture).shape == (48, 64, 3)
        assert number == FRAMES - 1 and [c.released for c in captures] == [True]

    def test_has_no_length_but_can_be_listed(self, clip):
        source = open_source(clip)
        with pytest.raises(TypeError, match="no length"):
            len(source)
        assert len(list(source)) == len(list(source)) == FRAMES

    def test_streamed(self, clip, captures):
        """No frame is read before it is asked for, and none is held after the next one came."""
        frames, seen = iter(open_source(clip)), []
        assert not captures
        for number in range(1, 6):
            frame = next(frames)
            assert captures[0].reads == number
            seen.append(weakref.ref(frame.picture))
            del frame
            assert [r() is None for r in seen] == [True] * (number - 1) + [False]
        assert not captures[0].released

    def test_released_when_closed(self, clip, captures):
        frames = iter(open_source(clip))
        next(frames)
        assert not captures[0].released
        frames.close()
        assert captures[0].released and captures[0].reads == 1

    def test_released_when_left(self, clip, captures):
        for _ in open_source(clip):
            break
        assert captures[0].released

    def test_released_upon_exceptions(self, clip, captures, monkeypatch):
        frames = iter(open_source(clip))
        next(frames)
        with pytest.raises(KeyboardInterrupt):
            frames.throw(KeyboardInterrupt)
        assert captures[0].released

        def fails(*_):
            raise cv2.error("no memory")

        monkeypatch.setattr(cv2, "cvtColor", fails)
        with pytest.raises(cv2.error):
            list(open_source(clip))
        assert [c.released for c in captures] == [True, True]

    def test_among_pictures(self, clip, tmp_path, captures):
        source = open_source([save(tmp_path / "a.png"), clip, RGB])
        assert source.streaming
        frames = list(source)
        assert [f.index for f in frames] == list(range(FRAMES + 2))
        assert (frames[-1].path, frames[1].path) == (f"image{FRAMES + 1}", str(clip))
        assert captures[0].released

    def test_broken(self, clip, tmp_path, captures, capfd):
        path = tmp_path / "torn.mp4"
        path.write_bytes(clip.read_bytes()[:100])
        with pytest.raises(UserError, match=r"torn\.mp4: cannot be read as a video"):
            list(open_source(path))
        complaints = Complaints()
        assert len(list(open_source([path, RGB, clip], complaints=complaints))) == FRAMES + 1
        assert complaints.counts == {"videos cannot be read and were left out": 1}
        assert all(c.released for c in captures) and len(captures) == 3


class Camera:
    """What cv2.VideoCapture is for a camera that gives three frames."""

    made: tuple = ()

    def __init__(self, source):
        self.source, self.left, self.released = source, 3, False
        Camera.made = (*Camera.made, self)

    def isOpened(self):
        return self.source != 9

    def read(self):
        if self.left == 0:
            return False, None
        self.left -= 1
        return True, np.full((4, 6, 3), (1, 2, self.left), np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "made", ())
    return Camera


class TestCameras:
    @pytest.mark.parametrize(
        ("source", "asked", "path"),
        [
            (0, 0, "camera0"),
            ("0", 0, "camera0"),
            (np.int64(2), 2, "camera2"),
            ("rtsp://host:554/live", "rtsp://host:554/live", "rtsp://host:554/live"),
            ("RTMP://host/live", "RTMP://host/live", "RTMP://host/live"),
            ("https://host/a/index.m3u8?token=x.jpg", "https://host/a/index.m3u8?token=x.jpg", None),
            ("http://host/clip.mp4", "http://host/clip.mp4", None),
            ("http://host/video.mjpg", "http://host/video.mjpg", None),
        ],
    )
    def test_frames(self, camera, source, asked, path):
        opened = open_source(source)
        assert opened.streaming and opened.count is None and camera.made == ()
        frames = list(opened)
        assert [tuple(f.picture[0, 0]) for f in frames] == [(2, 2, 1), (1, 2, 1), (0, 2, 1)]  # RGB
        assert [f.index for f in frames] == [0, 1, 2] and {f.path for f in frames} == {path or source}
        (made,) = camera.made
        assert made.source == asked and type(made.source) is type(asked) and made.released

    def test_no_such_camera(self, camera):
        with pytest.raises(UserError, match="camera9: cannot be read as a video"):
            list(open_source(9))
        assert camera.made[0].released

    def test_a_folder_called_0(self, camera, tmp_path, monkeypatch):
        save(tmp_path / "0" / "a.png")
        monkeypatch.chdir(tmp_path)
        assert len(open_source(Path("0"))) == 1 and open_source("0").streaming


class TestWithoutOpenCV:
    @pytest.fixture(autouse=True)
    def missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)

    @pytest.mark.parametrize("source", [0, "0", "rtsp://host/live", "clip.avi", ["clip.avi"], "*.avi"])
    def test_says_what_to_install(self, source, tmp_path, monkeypatch):
        (tmp_path / "clip.avi").touch()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError) as refused:
            open_source(source)
        assert 'pip install "yolov2[video]"' in str(refused.value)

    def test_everything_else_works(self, tmp_path):
        (tmp_path / "clip.avi").touch()
        assert_frames([save(tmp_path / "a.png"), tmp_path, RGB], RGB, RGB, RGB)


def test_optional_libraries_are_not_imported():
    """`import` is quick and works without the extras."""
    code = (
        "import sys, yolov2.results, yolov2.sources\n"
        "print(*{'cv2', 'matplotlib', 'supervision', 'onnx', 'onnxruntime'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_16_bit_grey_keeps_its_shades(tmp_path):
    """Pillow's own conversion makes everything above 255 of 65,535 white."""
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    for source in (tmp_path / "deep.png", Image.fromarray(grey)):
        (frame,) = open_source(source)
        assert np.asarray(frame.picture)[0, :, 0].tolist() == [0, 1, 128, 255]
