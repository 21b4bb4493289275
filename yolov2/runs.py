"""Where runs are kept: ``runs/train``, ``runs/train-2``, ..."""

from pathlib import Path

from yolov2.errors import UserError


def new_run(project: Path, name: str) -> Path:
    """Make and return the first folder of ``name``, ``name-2``, ... that does not exist yet.

    Raises
    ------
    UserError
        If it cannot be made.
    """
    try:
        # before the numbers: a project that is a link to nowhere "exists" too, whatever the number
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = project / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        where = error.filename or project
        raise UserError(f"{where}: cannot be made ({error.strerror}); choose another --project") from None


def newest_weights(project: Path = Path("runs")) -> Path:
    """The best checkpoint of the run that was trained last.

    Raises
    ------
    UserError
        If there is none.
    """
    found = sorted(project.glob("*/best.safetensors"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"{project}: no run with a best.safetensors; train first or give --weights FILE")
    return found[-1]
