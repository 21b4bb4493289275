"""What a new network takes from a trained one: its first layers, as Darknet seeds a detector (SPEC 18)."""

import warnings
from itertools import takewhile
from pathlib import Path

from yolov2.errors import UserError
from yolov2.loading import beside, load
from yolov2.network import Network, load_parameters
from yolov2.summary import describe, summary
from yolov2.weights import read_weights


def load_trained(path: Path, cfg: Path | None) -> Network | None:
    """The network that a file of weights is of; None if it is Darknet's and comes without its cfg.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    if path.suffix != ".safetensors" and cfg is None and beside(path, ".cfg") is None:
        return None
    with warnings.catch_warnings():  # darknet19_448.conv.23 fills a part, which is what it is for
        warnings.filterwarnings("ignore", ".* start at random")
        return load(path, cfg, device="cpu", strict=path.suffix == ".safetensors").network


def start_from(network: Network, trained: Network | None, path: Path) -> str:
    """Fill the first layers from a trained network, or straight from Darknet's file for this very one.

    Parameters
    ----------
    network : Network
        Changed in place.
    trained : Network, optional
        What `load_trained` made of the file.
    path : Path
        The file: it must end where a layer of `network` ends if there is no `trained`.

    Returns
    -------
    str
        A line as of `transfer`.

    Raises
    ------
    UserError
        If nothing fits.
    """
    if trained is not None:
        return transfer(network, trained, path)
    try:
        header, parameters = read_weights(path, network.layers, network.input_shape, strict=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if header.leftover_bytes or not header.filled_layers:
        raise UserError(f"{path}: ends within a layer, so it is of another network; give its --cfg")
    load_parameters(network, parameters)
    layers = _convolutions(network)
    return _line(path, header.filled_layers, layers[header.filled_layers :], [])


def transfer(network: Network, trained: Network, path: Path) -> str:
    """Copy the layers from the first one up to where the networks differ, as Darknet seeds a detector.

    Parameters
    ----------
    network : Network
        Changed in place.
    trained : Network
        Where the weights come from.
    path : Path
        The file that `trained` was read from, for messages.

    Returns
    -------
    str
        A line that says how many convolutions that are, and names those that did not fit: of `network`, which
        start afresh, and of the file, which are left out.

    Raises
    ------
    UserError
        If there is none: `trained` is another network.
    """
    pairs = zip(network.layers, trained.layers, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = {k: v for k, v in trained.state_dict().items() if int(k.split(".")[1]) < common}  # blocks.INDEX.
    count = sum(k.endswith("conv.weight") for k in shared)
    if not count:
        raise UserError(f"{path}: is of another network; give the --model it was trained as")
    network.load_state_dict(shared, strict=False)
    return _line(path, count, _convolutions(network)[count:], _convolutions(trained)[count:])


def _convolutions(network: Network) -> list[str]:
    """Layers with weights: "30 conv 125 1x1/1 linear", as `python -m yolov2.summary` writes them."""
    rows = enumerate(summary(network.layers, network.input_shape))
    return [" ".join((str(index), *describe(row, index)[:2])) for index, row in rows if row.learnable]


def _line(path: Path, count: int, fresh: list[str], left: list[str]) -> str:
    line = f"{count} convolutions from {path}"
    if fresh:
        line += f", {len(fresh)} start afresh: {', '.join(fresh)}"
    if left:
        line += f"; not taken from the file: {', '.join(left)}"
    return line
