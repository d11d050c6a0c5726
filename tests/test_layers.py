"""The layers of catdog's folders: imports go in one direction only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

# A folder, or a module next to the folders, imports only from the lines above its own.
LAYERS = [
    {"errors", "console"},
    {"command_line"},
    {"config"},
    {"storage"},
    {"cluster", "evaluation"},
    {"photos"},
    {"model", "report"},
    {"features"},
    {"prediction", "training"},
    {"tuning", "benchmark"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# These two may import from every layer: what `import catdog` offers, and the jobs by name.
TOP = {"catdog", "catdog.__main__"}
# TensorFlow takes seconds to import. So only HEAVY_MODULES import these packages at the top level, and all other
# modules import HEAVY_MODULES inside functions.
HEAVY = {"tensorflow", "tf_keras", "efficientnet"}
HEAVY_MODULES = {"catdog.model.backbones", "catdog.model.classifier"}
# What drivers run before they know whether they need TensorFlow.
DRIVERS = ["catdog.training.job", "catdog.tuning.job", "catdog.prediction.job", "catdog.model.export"]
# What train workers run; they need TensorFlow only for stages that train in epochs.
DRIVERS += ["catdog.training.worker", "catdog.training.fit.head.head_network"]


def module_name(source: Path) -> str:
    return ".".join(source.with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(source): source for source in sorted(Path("catdog").rglob("*.py"))}


def imports(source: Path, *, top_level: bool) -> set[str]:
    """Return the full names of the modules that `source` imports."""
    tree = ast.parse(source.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCES else str(node.module) for name in inside}
    return found


def place(module: str) -> str:
    """Return the folder of a module, or the module itself if it is next to the folders."""
    return module.split(".")[1]


def test_every_folder_has_a_layer() -> None:
    assert {place(module) for module in SOURCES if module not in TOP} == LEVEL.keys()


@pytest.mark.parametrize("module", [module for module in SOURCES if module not in TOP])
def test_a_module_imports_only_from_folders_below_its_own(module: str) -> None:
    for name in imports(SOURCES[module], top_level=False):
        if name.startswith("catdog.") and place(name) != place(module):
            assert LEVEL[place(name)] < LEVEL[place(module)], f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {name for name in imports(source, top_level=False) if name in SOURCES and name != module}
        for module, source in SOURCES.items()
    }
    graph["catdog"] = set()  # its load_classifier imports the real one only when it is called
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("initial", sorted(Path("catdog").rglob("__init__.py")), ids=str)
def test_a_folder_says_what_it_does_and_holds_four_to_nine_modules(initial: Path) -> None:
    docstring = ast.get_docstring(ast.parse(initial.read_text()))
    assert docstring
    assert 2 <= len([line for line in docstring.splitlines() if line]) <= 3
    folder = initial.parent
    if folder != Path("catdog"):
        assert 4 <= len([*folder.glob("[!_]*.py"), *folder.glob("*/__init__.py")]) <= 9


def test_the_package_opens_on_fifteen_entries_or_fewer() -> None:
    assert len(LEVEL) <= 15


@pytest.mark.parametrize("module", SOURCES)
def test_tensorflow_is_imported_at_the_top_of_two_modules_only(module: str) -> None:
    heavy = {name.split(".")[0] for name in imports(SOURCES[module], top_level=True)} & HEAVY
    assert not heavy or module in HEAVY_MODULES


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_module_of_a_driver_reaches_tensorflow_at_import(driver: str) -> None:
    reached: set[str] = set()
    queue = [driver]
    while queue:
        module = queue.pop()
        reached.add(module)
        queue += [n for n in imports(SOURCES[module], top_level=True) if n in SOURCES and n not in reached]
    assert not reached & HEAVY_MODULES


def test_tests_stand_in_the_folders_of_what_they_test() -> None:
    folders = {path.name for path in Path("tests").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders <= LEVEL.keys()


def test_no_class_is_made_by_a_function() -> None:
    for module, source in SOURCES.items():
        functions = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)]
        made = [inner.name for node in functions for inner in ast.walk(node) if isinstance(inner, ast.ClassDef)]
        assert not made, f"{module}: {made}"
