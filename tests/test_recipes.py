"""What can be trained: YOLOv1 for any input, cfg files, and presets without batch norm or passthrough."""

import pytest

from reference.layers import (
    BatchNorm,
    Connected,
    Conv,
    Dropout,
    Grid,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    output_shapes,
)
from reference.region import Region
from reference.schedule import Schedule
from yolov2.cfg import Config, write_cfg
from yolov2.cfg_sections import HeadTraining, Net
from yolov2.errors import UserError
from yolov2.presets import PRESETS
from yolov2.recipes import find_recipe, grid_for, switched, without_batch_norm, without_passthrough

PASSTHROUGH = ("yolov2-voc", "yolov2", "nano")
V1 = Grid(4, 2, 3)
REGION = Region(((1.0, 1.0),), 3)


class TestGrid:
    @pytest.mark.parametrize("model", ["yolov1", "yolov1-tiny", "yolov1-nano"])
    @pytest.mark.parametrize("imgsz", [64, 160, 224, 416, 448])
    def test_a_cell_for_every_place_of_the_map(self, model, imgsz):
        recipe = find_recipe(model)
        grid = grid_for(recipe, imgsz)
        # halved five or six times, a side that is odd counting one more
        assert grid.side == {"yolov1-nano": imgsz // 32}.get(model, -(-imgsz // 64))
        assert output_shapes(recipe.build(grid), (3, imgsz, imgsz))[-1] == (grid.outputs, 1, 1)

    def test_the_presets_own_input_has_the_presets_own_cells(self):
        for name in ("yolov1", "yolov1-tiny", "yolov1-nano"):
            assert grid_for(PRESETS[name], PRESETS[name].imgsz).side == 7

    def test_too_small(self, tmp_path):
        layers = [Conv(4, 7, pad=0), Connected(V1.outputs), V1]
        recipe = find_recipe(cfg(tmp_path, layers))
        with pytest.raises(UserError, match=r"--imgsz 4: layer 0"):
            grid_for(recipe, 4)


def cfg(folder, layers, **net) -> str:
    path = folder / "net.cfg"
    sizes = {"width": 64, "height": 64, "channels": 3}
    write_cfg(path, Config(Net(**sizes | net), list(layers), HeadTraining(0.1)))
    return str(path)


class TestCfg:
    def test_of_yolov1(self, tmp_path):
        layers = [Conv(4, 3, 4), Connected(20, "leaky", True), Connected(V1.outputs), V1]
        # as the published ones warm up: .0005 * 2 * 5 = .005
        warm = Schedule(0.0005, "steps", steps=(2, 4, 6), scales=(2.0, 5.0, 0.1))
        recipe = find_recipe(cfg(tmp_path, layers, schedule=warm))
        assert (recipe.head, recipe.imgsz, recipe.multi_scale) == (V1, 64, None)
        assert recipe.lr == pytest.approx(0.005) and recipe.jitter == 0.1
        grid = grid_for(recipe, 128)
        assert grid.side == 32  # 128 / 4
        assert recipe.build(grid) == [*layers[:2], Connected(grid.outputs), grid]

    @pytest.mark.parametrize("layers", [[Conv(4), V1], [V1], [Conv(4), Connected(8, "leaky")]])
    def test_ends_otherwise(self, tmp_path, layers):
        if isinstance(layers[-1], Grid):
            layers = [*layers[:-1], Conv(V1.outputs // 16, 3, 16), V1]
        with pytest.raises(UserError, match="only networks that end"):
            find_recipe(cfg(tmp_path, layers))


class TestSwitches:
    @pytest.mark.parametrize("model", PRESETS)
    def test_no_batch_norm(self, model):
        recipe = find_recipe(model)
        before, after = recipe.build(), switched(recipe, model, batch_norm=False).build()
        assert not any(layer.batch_norm for layer in after if isinstance(layer, Conv | Connected))
        # dropout feeds the layer that feeds the head, and nothing else is new
        assert after[-3] == Dropout(0.5) and after.count(Dropout()) == 1
        kinds = [[type(layer) for layer in layers if layer != Dropout()] for layers in (before, after)]
        assert kinds[0] == kinds[1]
        shape = (3, recipe.imgsz, recipe.imgsz)
        assert output_shapes(after, shape)[-1] == output_shapes(before, shape)[-1]

    @pytest.mark.parametrize("model", PASSTHROUGH)
    def test_no_passthrough(self, model):
        recipe = find_recipe(model)
        after = switched(recipe, model, passthrough=False).build()
        # route, convolution, reorg, route
        assert len(after) == len(recipe.build()) - 4
        assert not any(isinstance(layer, Route | Reorg) for layer in after)
        shape = (3, recipe.imgsz, recipe.imgsz)
        assert output_shapes(after, shape)[-1] == output_shapes(recipe.build(), shape)[-1]

    def test_both_and_neither(self):
        recipe = find_recipe("nano")
        both = switched(recipe, "nano", batch_norm=False, passthrough=False).build()
        assert both == without_batch_norm(without_passthrough(recipe.build()))
        assert switched(recipe, "nano") is recipe

    @pytest.mark.parametrize("model", [name for name in PRESETS if name not in PASSTHROUGH])
    def test_none_to_leave_out(self, model):
        with pytest.raises(UserError, match=f"--no-passthrough: {model} has no passthrough"):
            switched(find_recipe(model), model, passthrough=False)

    @pytest.mark.parametrize(
        ("branch", "message"),
        [
            ((Route((0,)), Reorg(2), Route((-1, 1))), None),  # as in the first YOLOv2 of 2016
            ((Route((0,)), Reorg(2), Route((-1, 0))), "another form"),
            ((Route((0,)), Reorg(2), Route((-1, 1)), Conv(4), Shortcut(1)), "routes behind"),
            ((Reorg(2),), "no passthrough"),
        ],
    )
    def test_passthroughs_of_cfg_files(self, branch, message):
        layers = [Conv(4), MaxPool(), *branch, Conv(REGION.channels, 1), REGION]
        if message:
            with pytest.raises(ValueError, match=message):
                without_passthrough(layers)
        else:
            assert without_passthrough(layers) == [*layers[:2], *layers[-2:]]

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([Conv(4), BatchNorm()], "layers of their own"),
            ([Conv(4, batch_norm=False)], "no batch norm"),
        ],
    )
    def test_batch_norm_that_cannot_be_left_out(self, layers, message):
        feeding = Conv(REGION.channels, 1, batch_norm=False)
        with pytest.raises(ValueError, match=message):
            without_batch_norm([*layers, feeding, REGION])
