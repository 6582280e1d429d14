"""A model's settings: one field each, from which come the flag, its default, and what the model is built with."""
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
from conftest import ROOT

import checkpoint
import main
import model as network
from model import ModelConfig, build, model_flags
from runtime import options
from runtime.options import MODEL, flags_of, setting
from runtime.values import probability

SMALL = {"emsize": 6, "nhid": 8, "nlayers": 2}


def test_every_field_is_a_flag_and_has_its_default():
    flags = {flag.name: flag for flag in model_flags()}
    for each in fields(ModelConfig):
        assert each.name == "specific" or flags[each.name].default == each.default
    parsed = vars(options.parse(main.make_parser(), []))
    specific = {name: parsed[name] for name in ModelConfig.of(parsed).specific}
    assert ModelConfig.of(parsed) == ModelConfig(specific=specific)


def test_a_model_has_the_config_it_was_built_from():
    config = ModelConfig.of({**SMALL, "skip_output": True, "dropouth": 0.125, "mogrifier_rounds": 3, "pdr": 0.5})
    model = build(config, 11)
    assert model.config == config and model.dropouth == 0.125 and model.past.factor == 0.5
    assert model.config.specific == {"mogrifier_rounds": 3} and config.features == 8


def test_a_new_setting_is_one_field(monkeypatch):
    """It is a flag of main.py with help and check, and the model that is built has it."""
    @dataclass(frozen=True)
    class Config(ModelConfig):
        dropoutz: float = setting(0.25, "dropout on nothing yet", probability, "P", kept=MODEL)

    monkeypatch.setattr(network, "ModelConfig", Config)
    assert flags_of(Config)[-1].typed == "--dropoutz"
    parser = main.make_parser()
    assert "dropout on nothing yet (default: 0.25)" in " ".join(parser.format_help().split())
    args = options.parse(parser, ["--dropoutz", "0.5", "--emsize", "6", "--nhid", "8"])
    assert build(vars(args), 11).config.dropoutz == 0.5
    with pytest.raises(SystemExit):
        options.parse(parser, ["--dropoutz", "2"])
    assert any(flag.name == "dropoutz" for flag in checkpoint.kept_flags())


def test_a_checkpoint_of_an_earlier_version_has_a_config():
    path = next((ROOT / "tests" / "data").glob("*/*.pt"))
    contents = checkpoint.load(str(path))
    config = ModelConfig.of(contents["settings"])
    assert build(config, len(contents["vocabulary"])).config == config
    assert all(getattr(config, name) == value for name, value in contents["settings"].items() if hasattr(config, name))


def test_the_shapes_of_a_model_are_known_without_torchs_symbolic_package():
    """Every script builds a model on the meta device before it takes memory; importing sympy there takes a second."""
    program = ("import sys, torch, main, model\nfrom runtime import options\n"
               "args = model.resolve(options.parse(main.make_parser(), []), 9)\n"
               "with torch.device('meta'): print(model.count_parameters(model.build(vars(args), 9)))\n"
               "sys.exit('sympy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and int(done.stdout) > 20_000_000, done.stderr
