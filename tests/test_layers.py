import ast
from pathlib import Path

import pytest

# A module imports only from layers below its own.
LAYERS = [
    {"errors", "console", "markup", "versions", "watching"},
    {"charts", "config", "rows", "artifacts", "pth", "images", "sample", "command", "download", "losses"},
    {
        "augmentation",
        "card",
        "corrections",
        "duplicates",
        "evaluation",
        "gallery",
        "keras_environment",
        "label_errors",
        "layouts",
        "outcomes",
        "page",
        "photos",
        "predictions",
        "report",
        "schedulers",
        "space",
        "tensors",
        "tracking",
        "trainer",
    },
    {"calibration", "cluster", "features", "manifest", "openvino_graph", "scores", "sorting", "sources", "weights"},
    {"engines"},
    {"backbones", "predict_page", "search", "thumbnails", "train_page", "trunk", "tune_page"},
    {"diagnosis", "labelling", "measures", "model", "races", "stages", "yardsticks"},
    {"exports", "growth", "inference", "workers"},
    {"training"},
    {"pipeline"},
    {"tuning"},
]
# Imported inside functions, in worker processes only: TensorFlow stays out of the driver and of decoding tasks.
LATE = {
    ("trunk", "model"),
    ("trunk", "backbones"),
    ("workers", "model"),
    ("workers", "backbones"),
    ("stages", "model"),
    ("engines", "model"),
    ("exports", "model"),
    ("tuning", "model"),
    ("yardsticks", "model"),
    ("yardsticks", "backbones"),
    ("tuning", "backbones"),
}
HEAVY = {"tensorflow", "tf_keras", "efficientnet"}
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
SOURCES = sorted(Path("catdog").glob("*.py"))


def imports(source: Path, *, top_level: bool) -> set[str]:
    """The modules that `source` imports, those of catdog as "catdog.name"."""
    tree = ast.parse(source.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "catdog":
            found |= {f"catdog.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_module_has_a_layer() -> None:
    assert {source.stem for source in SOURCES} - {"__init__"} == LEVEL.keys()


@pytest.mark.parametrize("source", [source for source in SOURCES if source.stem != "__init__"], ids=lambda s: s.stem)
def test_a_module_imports_only_what_lies_below_it(source: Path) -> None:
    for name in imports(source, top_level=False):
        below = name.removeprefix("catdog.")
        if not name.startswith("catdog.") or below not in LEVEL or (source.stem, below) in LATE:
            continue
        assert LEVEL[below] < LEVEL[source.stem], f"{source.stem} imports {below}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_tensorflow_is_imported_at_the_top_of_two_modules_only(source: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(source, top_level=True)} & HEAVY
    assert not heavy or source.stem in {"model", "backbones"}


def test_no_module_of_the_driver_reaches_tensorflow_at_import() -> None:
    reached, queue = set(), ["exports", "pipeline", "inference", "tuning"]
    while queue:
        module = queue.pop()
        reached.add(module)
        found = {name.removeprefix("catdog.") for name in imports(Path(f"catdog/{module}.py"), top_level=True)}
        queue += [name for name in found & LEVEL.keys() if name not in reached]
    assert not reached & {"model", "backbones"}
