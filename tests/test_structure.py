"""The plan of the house, read off the sources: who imports whom, and that equal things have equal names."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("reference", "fast", "yolov2")
MODULES = [p.relative_to(ROOT) for wing in WINGS for p in sorted((ROOT / wing).rglob("*.py"))]
VOCABULARY = {"reference.region", "reference.layers"}  # pure data, all that fast may share with the oracle
LIBRARIES = {
    "reference": {"numpy"},
    "fast": {"torch", "triton"},
    "yolov2": {"torch", "numpy", "PIL", "safetensors", "tqdm", "yaml"}
    # extras, imported where they are needed
    | {"cv2", "matplotlib", "onnx", "onnxruntime", "pycocotools", "raylib", "simplejpeg"},
}


def tree(path):
    return ast.parse((ROOT / path).read_text(), str(path))


def imported(path):
    """(module, name or None) of every import of a file, also of those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield from ((node.module, alias.name) for alias in node.names)


def public(path):
    """Public functions and classes of a file by name."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {n.name: n for n in tree(path).body if isinstance(n, kinds) and not n.name.startswith("_")}


def arguments(function):
    """Names of a function's arguments; what NumPy calls an axis is a dim in torch."""
    args = function.args
    return [{"dim": "axis"}.get(a.arg, a.arg) for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_one_way(path):
    wing = path.parts[0]
    for module, name in imported(path):
        package = module.split(".")[0]
        if package in sys.stdlib_module_names or package in LIBRARIES[wing] or package == wing:
            continue
        full = {module, f"{module}.{name}"}
        allowed = {
            "reference": False,
            "fast": bool(full & VOCABULARY),
            "yolov2": package in ("fast", "reference"),
        }
        assert allowed[wing], f"{path} imports {module}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parts[0] == "yolov2"], ids=str)
def test_the_product_is_built_on_the_fast_wing(path):
    """It takes from the oracle only what has no fast twin."""
    for module, name in imported(path):
        twin = ROOT / "fast" / f"{module.removeprefix('reference.')}.py"
        if module.startswith("reference.") and module not in VOCABULARY and twin.exists():
            assert name not in public(twin), f"{path} imports {module}.{name}, fast has it too"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_everything_public_is_explained(path):
    if (ROOT / path).read_text().strip():
        assert ast.get_docstring(tree(path)), f"{path} has no docstring"
    for name, node in public(path).items():
        assert ast.get_docstring(node), f"{path}:{node.lineno}: {name} has no docstring"


TWINS = [p for p in MODULES if p.parent == Path("fast") and not p.name.startswith("_")]
KERNELS = [p for p in MODULES if p.parent == Path("fast/kernels") and not p.name.startswith("_")]


@pytest.mark.parametrize("path", KERNELS, ids=str)
def test_every_file_of_kernels_belongs_to_an_operation(path):
    assert Path("fast", path.name) in MODULES


@pytest.mark.parametrize("path", [p for p in TWINS if p.name != "_launch.py"], ids=str)
def test_triton_is_imported_by_kernels_only(path):
    """So `fast` works where there is no Triton."""
    assert not any(module.split(".")[0] == "triton" for module, _ in imported(path))


@pytest.mark.parametrize("path", TWINS, ids=str)
def test_twins_have_equal_names_and_arguments(path):
    oracle = Path("reference", path.name)
    assert oracle in MODULES, f"{path} has no twin {oracle}"
    here, there = public(path), public(oracle)
    common = here.keys() & there.keys()
    assert common, f"{path} and {oracle} have no name in common"
    for name in common:
        assert type(here[name]) is type(there[name])
        if isinstance(here[name], ast.FunctionDef):
            # either may know more, e.g. what only one of Darknet's tools does, or the dtype of the result
            both = list(zip(arguments(here[name]), arguments(there[name]), strict=False))
            assert all(ours == theirs for ours, theirs in both), name
        else:
            assert fields(here[name]) == fields(there[name]), name


def fields(cls):
    return [n.target.id for n in cls.body if isinstance(n, ast.AnnAssign)]


def test_every_twin_has_its_test():
    missing = [p.name for p in TWINS if not (ROOT / "tests" / f"test_{p.name}").exists()]
    assert not missing


def test_no_file_grew_too_large_to_read():
    assert [str(p) for p in MODULES if len((ROOT / p).read_text().splitlines()) > 600] == []


def test_the_check_itself_sees_every_import(tmp_path):
    """An import in a function, or of a name, does not escape."""
    (tmp_path / "m.py").write_text("import a.b\ndef f():\n    from c import d, e\n")
    assert list(imported(tmp_path / "m.py")) == [("a.b", None), ("c", "d"), ("c", "e")]
