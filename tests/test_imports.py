"""The import rules of the packages: runtime ← corpus ← data and ops ← cells, softmaxes ← model ← … ← commands."""
import ast
import sys

import pytest
from conftest import ROOT

COPYABLE = {"weight_drop", "locked_dropout", "embed_regularize", "splitcross", "nt_asgd", "past_decode"}
COMMANDS = {"main", "finetune", "pointer", "dynamiceval", "evaluate", "ensemble", "generate", "bench", "export",
            "prepare", "tune"}
# What each may import, besides itself, the standard library and the packages that the project needs.
ALLOWED = {**{name: set() for name in COPYABLE}, "runtime": set(), "ops": {"runtime"}}
ALLOWED["corpus"] = {"runtime"}
ALLOWED["utils"] = {"runtime"}
ALLOWED["data"] = {"runtime", "corpus", "utils"}
ALLOWED["cells"] = ALLOWED["softmaxes"] = COPYABLE | {"runtime", "ops"}
ALLOWED["model"] = ALLOWED["cells"] | {"cells", "softmaxes"}
ALLOWED["checkpoint"] = ALLOWED["model"] | {"model", "corpus"}
ALLOWED["evaluation"] = ALLOWED["checkpoint"] | {"checkpoint", "corpus", "data", "utils"}
ALLOWED["training"] = ALLOWED["evaluation"] | {"evaluation"}
ALLOWED["interchange"] = ALLOWED["evaluation"]
ALLOWED |= dict.fromkeys(COMMANDS, ALLOWED["training"] | {"training"})
ALLOWED["export"] = ALLOWED["interchange"] | {"interchange", "evaluation"}
ALLOWED["awd_lstm"] = ALLOWED["training"]
ALLOWED["setup"] = set()
NEEDED = {"torch", "numpy", "tqdm"}
TORCH_ALONE = COPYABLE | {"ops"}
NARROWER = {"ops": {"runtime.paths", "runtime.fastest"}}    # of a package that may be imported, these modules alone
STANDARD_LIBRARY_ONLY = {"corpus.demo", "corpus.archives", "runtime.errors", "runtime.paths", "runtime.program",
                         "awd_lstm", "awd_lstm.command"}     # run before an install, or before torch is imported
WHEN_ASKED_FOR = {"ops.compiled": {"cuda"},                 # inside functions, with a fallback or an error
                  "interchange.hf": {"safetensors", "tokenizers"}, "interchange.onnx": {"onnxruntime"},
                  "interchange.onnx_graph": {"onnx", "onnxruntime"},
                  "corpus.subwords": {"tokenizers"}, "tune": {"optuna", "sqlalchemy"}}
ALONE = {"interchange.modeling_awd_lstm": {"torch", "transformers"},        # copied into a folder, to be read there
         "setup": {"setuptools"}}                                           # run by pip


def modules(root=ROOT):
    """Every module of the project by name, and its file."""
    files = [*root.glob("*.py"), *(file for package in ALLOWED for file in (root / package).glob("**/*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file):
    """The modules that a file imports, also inside functions -> names with dots."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken(name, file):
    """The imports of a module that break a rule."""
    own = name.partition(".")[0]
    for imported in imports(file):
        package = imported.partition(".")[0]
        if package in sys.stdlib_module_names or (package == own and name not in ALONE):
            continue
        if name in ALONE:
            if package not in ALONE[name]:
                yield imported
        elif name in STANDARD_LIBRARY_ONLY and package not in ("runtime", "corpus", "awd_lstm"):
            yield imported
        elif package in ALLOWED:
            narrower = NARROWER.get(own)
            if package not in ALLOWED[own] or (narrower and not any(imported.startswith(each) for each in narrower)):
                yield imported
        elif package not in (({"torch"} if own in TORCH_ALONE else NEEDED) | WHEN_ASKED_FOR.get(name, set())):
            yield imported


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_what_it_may(name):
    assert not list(broken(name, modules()[name]))


@pytest.mark.parametrize("name", WHEN_ASKED_FOR)
def test_what_is_imported_when_asked_for_is_imported_in_functions(name):
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    assert not {alias.name.partition(".")[0] for node in tree.body if isinstance(node, ast.Import)
                for alias in node.names} & WHEN_ASKED_FOR[name]


def test_there_is_nothing_else_at_the_top():
    top = {file.stem for file in ROOT.glob("*.py")}
    assert top == {name for name in ALLOWED if (ROOT / f"{name}.py").exists()}


@pytest.mark.parametrize(("name", "line"), [
    ("ops.graphs", "from runtime.errors import InputError"), ("splitcross", "import numpy"),
    ("cells.qrnn", "import model"),
    ("runtime.log", "from corpus import cache"), ("model", "from training.step import TrainStep"),
    ("dynamiceval", "from pointer import search"), ("evaluation.loss", "from training import windows"),
    ("corpus.archives", "import torch"), ("training.step", "import matplotlib"),
    ("interchange.modeling_awd_lstm", "from interchange import hf"), ("evaluate", "from interchange import hf"),
    ("training.space", "import optuna"), ("finetune", "import main"), ("tune", "import main")])
def test_a_broken_rule_is_found(name, line, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(f"{modules()[name].read_text()}\n{line}\n")
    assert len(list(broken(name, file))) == 1
