"""The settings of training: one field each, from which come the flag, its default, and what a run is given."""
from dataclasses import dataclass, field, fields, make_dataclass
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
from conftest import ROOT, SMALL

import bench
import checkpoint
import finetune
import main
from checkpoint import KeptTraining
from runtime import options
from runtime.options import MODEL, RUN, flags_of, setting
from runtime.values import positive, size
from training import settings
from training.run import Run
from training.settings import RUNNING, SCHEDULE, STOPPING, TrainingConfig


def test_every_field_is_annotated_and_a_flag_with_its_default():
    parser, hints = main.make_parser(), get_type_hints(TrainingConfig)
    flags = {flag.name: flag for group in ("", SCHEDULE, RUNNING, STOPPING) for flag in flags_of(TrainingConfig, group)}
    assert sorted(flags) == sorted(hints) == sorted(each.name for each in fields(TrainingConfig))
    for name, hint in hints.items():
        kinds = {get_origin(each) or each for each in (get_args(hint) if isinstance(hint, UnionType) else [hint])}
        assert parser.flags[name] == flags[name]
        assert (bool in kinds) == (flags[name].type is bool) and type(getattr(TrainingConfig(), name)) in kinds
    assert TrainingConfig.of(vars(options.parse(parser, []))) == TrainingConfig()


def test_what_a_model_keeps_is_what_its_file_is_read_with():
    """A field of `KeptTraining` stays with a model, one of `TrainingConfig` ends with the run."""
    kept = {flag.name for flag in checkpoint.kept_flags()}
    assert {each.name for each in fields(KeptTraining)} <= kept
    own = {each.name for each in fields(TrainingConfig)} - {each.name for each in fields(KeptTraining)}
    assert not own & kept
    assert {main.make_parser().flags[name].kept for name in own} == {RUN, ""}


@pytest.mark.parametrize(("script", "lr", "max_seq_len_delta"),
                         [(main, None, 40), (finetune, 30.0, 10), (bench, 0.1, 0)])
def test_defaults_of_a_script(script, lr, max_seq_len_delta):
    parsed = TrainingConfig.of(vars(options.parse(script.make_parser(), [])))
    assert parsed == TrainingConfig(lr=lr, max_seq_len_delta=max_seq_len_delta)


def test_a_new_setting_of_a_run_is_one_field(toy, call, tmp_path, monkeypatch):
    """It is a flag with help and check, a run has it, and a state gives it back to the run that continues."""
    @dataclass(frozen=True)
    class Config(TrainingConfig):
        patience_z: float = setting(0.25, "patience of nobody yet", positive, "X", group=SCHEDULE, kept=RUN)

    monkeypatch.setattr(settings, "TrainingConfig", Config)
    parser = main.make_parser()
    assert "patience of nobody yet (default: 0.25)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit):
        options.parse(parser, ["--patience-z", "-1"])
    found, begin = [], Run.begin
    monkeypatch.setattr(Run, "begin", lambda run: (found.append(run.config.patience_z), begin(run)))
    call("main.py", "--data", toy, *SMALL, "--epochs", 1, "--patience-z", 0.5, "--save", "m.pt")
    assert torch.load(tmp_path / "m.state.pt", weights_only=True)["settings"]["patience_z"] == 0.5
    call("main.py", "--data", toy, "--epochs", 1, "--save", "m.pt", "--resume", "auto")
    assert found == [0.5, 0.5]


def test_a_new_setting_that_models_keep_is_one_field(monkeypatch):
    new = setting(3, "streams of nobody yet", size, "N", kept=MODEL)
    monkeypatch.setattr(checkpoint, "KeptTraining",
                        make_dataclass("Kept", [("streams", int, new)], bases=(KeptTraining,), frozen=True))
    flag = next(flag for flag in checkpoint.kept_flags() if flag.name == "streams")
    assert (flag.typed, flag.default, flag.checked(5)) == ("--streams", 3, 5)


def test_a_checkpoint_of_an_earlier_version_has_a_config():
    path = next((ROOT / "tests" / "data").glob("*/*.pt"))
    saved = checkpoint.load(str(path))["settings"]
    config = TrainingConfig.of(saved)
    assert config == TrainingConfig(**{each.name: saved[each.name] for each in fields(KeptTraining)})
    assert TrainingConfig.of({}) == TrainingConfig()


def test_lists_are_not_shared_and_other_fields_are_no_flags():
    assert TrainingConfig().when == [-1] and TrainingConfig().when is not TrainingConfig().when
    named = make_dataclass("Named", [("name", str, field(default="")), ("rate", float, setting(0.5, "a rate of 50%"))])
    flag, = flags_of(named, rate={"default": 1.0})
    assert (flag.name, flag.default) == ("rate", 1.0)
    parser = options.Parser("").add("group", [flag])
    assert "a rate of 50% (default: 1.0)" in " ".join(parser.format_help().split())
