"""Rules that a reader cannot check by eye."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alignvis

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alignvis"
FILES = sorted(PACKAGE.rglob("*.py"))

# Higher may import lower, never the other way round; parts of one level leave each other alone unless named below.
LEVELS = {
    "errors": 0, "channels": 0, "progress": 0, "memory": 0, "processes": 0, "files": 0, "versions": 0, "spans": 0,
    "terminal": 1, "device": 1, "recipe": 1,
    "store": 1, "pickle_machine": 1, "pickles": 1, "loss": 1, "retrieval": 1, "stats": 1, "encoders": 1, "stack": 1,
    "hdf5": 1, "matlab": 1,
    "averaging": 2, "human": 2, "alignment": 2, "pairs": 2, "decoder": 2, "images": 2, "recordings": 2,
    "paired": 1, "transductive": 2, "intervals": 2, "reliability": 1,
    "exchange": 3, "training": 3, "plans": 3, "finding": 3, "runs": 3, "table": 3, "listing": 3,
    "unfinished": 4, "asking": 4, "twins": 4, "contents": 4, "human_scores": 4, "representations": 4,
    "check": 7, "repetitions": 5, "scoring": 6, "train_runs": 5,
    "grid": 6, "searching": 6,
    "committee": 7, "comparing": 7, "explanations": 7, "showing": 7,
    "figures": 8,
    "reports": 9,
    "demo": 10,
    "cli": 11, "__main__": 12,
}  # fmt: skip
WITHIN = {("progress", "errors"), ("files", "errors"), ("loss", "retrieval"), ("pickles", "pickle_machine")}
ONLY_IN = {
    "mne": ("recordings/", "figures/scalp.py"),
    "h5py": ("hdf5.py", "images/keras_files.py", "recordings/simulate_nsd.py"),
    "PIL": ("images/pixels.py", "recordings/drawing.py"),
    "tqdm": ("terminal.py",),
    "matplotlib": ("figures/",),
}
HEAVY = ("torch", "numpy", "scipy", "mne", "PIL", "matplotlib", "safetensors", "tqdm")
FORBIDDEN = (
    "timm",
    "torchvision",
    "lightning",
    "wandb",
    "sklearn",
    "pandas",
    "pickle",
    "transformers",
    "peft",
    "requests",
)


def imports(path: Path, everywhere: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    inner = path.relative_to(PACKAGE)
    return inner.parts[0] if len(inner.parts) > 1 else inner.stem


def test_every_file_has_a_level():
    assert {part(path) for path in FILES} - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    for name in imports(path):
        if not name.startswith("alignvis.") or name == "alignvis.__version__":
            continue
        above, below = part(path), name.split(".")[1]
        fits = above == below or above == "__init__" or LEVELS[above] > LEVELS[below] or (above, below) in WITHIN
        assert fits, f"{path} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_library_has_one_home(path):
    inner = path.relative_to(PACKAGE).as_posix()
    for name in {name.split(".")[0] for name in imports(path)}:
        assert name not in ONLY_IN or any(inner.startswith(home) for home in ONLY_IN[name]), f"{inner} imports {name}"
        assert name not in FORBIDDEN or (name, inner) == ("pickle", "recordings/eeg2_writer.py"), (
            f"{inner} imports {name}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_the_command_line_prints_and_nothing_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in ("print", "click.echo") or part(path) in ("cli", "terminal"), f"{path} prints"
        assert called not in (
            "eval",
            "exec",
            "pickle.load",
            "pickle.loads",
            "pickle.Unpickler",
            "torch.jit.load",
            "os.system",
        )
        assert not called.endswith("extractall")
        assert called != "torch.load" or given.get("weights_only") == "True", f"{path} unpickles"
        assert given.get("allow_pickle", "False") == "False" and given.get("shell", "False") == "False"


def test_simulate_writes_pickles_as_the_published_files_are_and_reads_none():
    source = (PACKAGE / "recordings/eeg2_writer.py").read_text(encoding="utf-8")
    assert set(re.findall(r"pickle\.\w+", source)) <= {
        "pickle.dumps",
        "pickle.dump",
        "pickle.Pickler",
        "pickle.PickleBuffer",
    }


def test_the_command_line_imports_nothing_heavy():
    code = f"import sys, alignvis.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_public_names_are_there_and_cost_nothing_until_they_are_asked_for():
    code = f"import sys, alignvis; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    modules = {part(path) for path in FILES} - {"__init__"}
    for name in alignvis.__all__:
        assert name not in modules, f"once alignvis.{name} is imported as a module, it hides the function"
        assert isinstance(getattr(alignvis, name), str | dict) or callable(getattr(alignvis, name)), name
    with pytest.raises(AttributeError, match="alignvis has nothing called 'Trainer'"):
        alignvis.Trainer  # noqa: B018


def test_no_file_is_too_long_to_be_one_idea():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > 400}
