"""Continuing a run exactly: what is saved besides the model, and how it is found and put back.

The optimizer with its averages, every random number generator, the position in the text with the hidden state, and
the sums and losses so far: with them an interrupted run ends, bit for bit on a CPU, like one never interrupted.
"""
import os
import shlex
import sys
from operator import index

import torch

import checkpoint
import engine
import options
from checkpoint import Files
from errors import InputError
from meter import Meter
from team import launcher


def capture(run):
    """Besides the weights, all that decides how `run` goes on: a dict for a checkpoint."""
    cuda = [torch.cuda.get_rng_state()] if str(run.args.device).startswith("cuda") else []
    own = {"cpu": torch.get_rng_state(), "cuda": cuda}
    first, *others = run.team.gather(own)
    parts = run.team.gather([h.cpu() for h in engine.flat(run.hidden)])
    return {"optimizer": run.optimizer.state_dict(), "hidden": [torch.cat(columns, dim=1) for columns in zip(*parts)],
            "generators": {**first, "others": others, "lengths": run.lengths.get_state()},
            "progress": {"row": run.row, "rows": len(run.train), "batch": run.batch, "meter": run.meter.state(),
                         "skipped": run.skipped, "finished": run.finished,
                         "best": run.files.best, "stage": run.files.stage, "switch_epoch": run.switch_epoch,
                         "stall_epoch": run.stall_epoch,
                         "switch_reason": run.switch_reason}}


def put_back(run, state, path):
    """Make `run` what it was when `state`, read from `path`, was captured.

    Raises InputError if the state is damaged, or of another text, batch size or optimizer.
    """
    try:
        _put_back(run, state, f"{path}: the training state")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path} is damaged: its training state cannot be used ({type(error).__name__})") from None


def _put_back(run, state, where):
    progress, generators = state["progress"], state["generators"]
    if progress["stage"] != run.files.stage:
        owner = "finetune.py" if progress["stage"] else "main.py"
        raise InputError(f"{where} is one of {owner}; continue it with that")
    rows, row = index(progress["rows"]), index(progress["row"])
    if rows != len(run.train) or not 0 <= row < rows:
        raise InputError(f"{where} is of columns of {rows} tokens, now they have {len(run.train)}: "
                         f"use the --data and --batch-size it was trained with")
    for module, part in ((run.model, "model"), (run.criterion, "criterion")):
        checkpoint.load_module(module, state[part], f"{where}: {part}")
    checkpoint.load_optimizer(run.optimizer, state["optimizer"], where)
    for group in run.optimizer.param_groups:
        group["weight_decay"] = run.args.wdecay
        if "lr" in run.args.given and run.args.lr != state["settings"]["lr"]:
            group["lr"] = run.args.lr
    whole = run.team.share(run.args.batch_size)
    for found, wanted in zip(engine.flat(state["hidden"]), engine.flat(run.hidden), strict=True):
        like = wanted.new_empty(1, run.args.batch_size, wanted.size(2), device="cpu")
        checkpoint.check_tensor(found, like, f"{where}: hidden")
        wanted.copy_(found[:, whole])
    run.history = [_plain(epoch) for epoch in state["losses"]["history"]]
    run.row, run.batch, run.skipped = row, index(progress["batch"]), index(progress["skipped"])
    meter = progress["meter"]
    run.meter = Meter(float(meter["nats"]), index(meter["tokens"]), index(meter["batches"]), float(meter["seconds"]))
    run.stall_epoch = index(progress.get("stall_epoch", 0))
    run.switch_epoch, run.switch_reason = progress["switch_epoch"], progress["switch_reason"]
    if not isinstance(progress["best"], str) or not _is_plain({**progress, "meter": None}):
        raise TypeError("not a state of progress")
    run.finished = bool(progress["finished"])
    run.lengths.set_state(generators["lengths"])
    ranks = [generators, *generators.get("others", [])]
    if run.team.rank >= len(ranks):          # there were fewer processes: this one draws numbers of its own
        torch.manual_seed(run.args.seed + 1_000_003 * run.team.rank + len(run.history))
        return
    own = ranks[run.team.rank]
    torch.set_rng_state(own["cpu"])
    if own["cuda"] and str(run.args.device).startswith("cuda"):
        torch.cuda.set_rng_state(own["cuda"][0])


def _plain(epoch):
    """An epoch's entry of the history: numbers and words under names, the validation loss among them."""
    if not _is_plain(epoch):
        raise TypeError("not a line of a history")
    return {**epoch, "valid_loss": float(epoch["valid_loss"])}


def _is_plain(entries):
    return all(isinstance(name, str) and isinstance(value, (int, float, str, type(None)))
               for name, value in entries.items())


def find(args, stage=""):
    """What `--resume` asks to continue from -> (path, contents), or None for a fresh run.

    `auto` is the state under `--save`, if there is one. A model's file stands for the state beside it, a damaged
    state for the one saved before it. Flags that were not typed are taken from the state.
    """
    if args.resume is None:
        return None
    files = Files(args.save, stage) if args.resume in ("auto", args.save) else Files(args.resume)
    candidates = [files.state, files.previous]
    if args.resume.endswith(".state.pt"):
        candidates = [args.resume, args.resume[:-len("state.pt")] + "state.previous.pt"]
    found = [path for path in candidates if os.path.exists(path)]
    if not found and args.resume == "auto":
        return None
    contents = path = None
    for path in found or [args.resume]:
        try:
            contents = checkpoint.load(path)
            break
        except InputError as error:
            if path == (found or [args.resume])[-1]:
                raise
            print(f"{error}; trying the state before it", file=sys.stderr)
    if "progress" not in contents:
        raise InputError(f"{path} holds a model but not the state of a run; finetune.py trains it further")
    checkpoint.check_shapes(contents, path)
    options.inherit(args, contents["settings"], path, options.KEPT)
    return path, contents


def command():
    """This process's command line with `--resume auto`."""
    words = iter(sys.argv)
    kept = []
    for word in words:
        flag = word.partition("=")[0]
        if len(flag) > 3 and "--resume".startswith(flag):
            if "=" not in word:
                next(words)
        else:
            kept.append(word)
    return shlex.join([*launcher(), *kept, "--resume", "auto"])
