"""Class names: files with one a line, and the names of the data sets that Darknet's detectors learned."""

from pathlib import Path

from yolov2.errors import UserError

MAX_BYTES = 1 << 24

VOC = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor"""
COCO = """person,bicycle,car,motorbike,aeroplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,
suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,
tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,
hot dog,pizza,donut,cake,chair,sofa,pottedplant,bed,diningtable,toilet,tvmonitor,laptop,mouse,remote,
keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,
hair drier,toothbrush"""
VOC_NAMES = tuple(VOC.split())
COCO_NAMES = tuple(COCO.replace("\n", "").split(","))


def read_names(path: Path | str) -> tuple[str, ...]:
    """The names in a file, one a line; empty lines at its end do not count.

    Raises
    ------
    UserError
        If it cannot be read, is no text, or has an empty line among the names.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or b"\0" in data:
            raise UserError(f"{path}: not a list of names, one a line")
        names = data.decode("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    names = [name.strip() for name in names]
    if "" in names:
        raise UserError(f"{path}: line {names.index('') + 1} is empty; a name is missing")
    return tuple(names)


def default_names(classes: int) -> tuple[str, ...]:
    """VOC's names for 20 classes, COCO's for 80, otherwise numbers."""
    for names in (VOC_NAMES, COCO_NAMES):
        if classes == len(names):
            return names
    return tuple(f"class{number}" for number in range(classes))
