"""How a training run begins and ends: its files locked, and whatever ends it turned into a saved state."""
import os
import sys
from contextlib import ExitStack, contextmanager

import torch

from runtime import program
from runtime.errors import InputError
from runtime.log import log, surviving_a_lost_log
from runtime.paths import check_output
from runtime.processes import resume_command
from runtime.signals import Interruption, Stop, exclusive


@contextmanager
def running(run):
    """Inside the block `run`, a `training.run.Run`, may train.

    Its files are locked, and it stands where it is continued from. A signal, --max-minutes or a divergence, each a
    `Stop`, ends the block with the state saved and `run.status` set; out of memory, one process alone saves, too.
    """
    os.makedirs(os.path.dirname(run.files.lock) or ".", exist_ok=True)
    try:
        with ExitStack() as stack:
            stack.enter_context(surviving_a_lost_log())
            if not run.group.rank:
                stack.enter_context(exclusive(run.files.lock))
            run.begin()
            if run.board:
                stack.callback(run.board.close)
            run.interruption = stack.enter_context(
                Interruption(run.args.max_minutes, "saving; press Ctrl-C again to give up"))
            yield from _watched(run)
    finally:
        if run.recording:
            run.recording.drop()        # NCCL's communicators wait for graphs that hold their collectives
    run.group.leave()                   # not after an error: one that fails alone must not wait for the others


def _watched(run):
    alone = run.group.size == 1
    try:
        yield run
        if run.checkpoints.unsaved_best:
            save_best_at_last(run)
    except Stop as stop:
        saved = (alone or run.together) and run.save_state()        # a state is put together by all processes
        run.status = stop.status
        log_where(run, stop, saved)
    except BaseException as error:
        if alone and isinstance(error, torch.OutOfMemoryError):
            run.save_state()
        if os.path.exists(run.files.state):
            print(f"the last good state is in {run.files.state}; `--resume auto` continues from it", file=sys.stderr)
        raise


def check_names(save, files):
    """InputError for a --save whose `Files` cannot be written, or not be read again."""
    if os.path.isdir(save) or not os.path.basename(save):
        raise InputError(f"--save {save!r} is no file name; give one such as model.pt")
    if os.fsencode(save).decode(errors="replace") != save:              # torch would write it, and not read it again
        raise InputError(f"--save {save!r} is not UTF-8; give another name")
    for path in (*files.kept(), files.lock):
        check_output(path)


def save_best_at_last(run):
    """Write the best model that could not be written before, or say that it is lost."""
    if run.group.size == 1:
        run.save_state()
    if not run.checkpoints.write_best():                            # also where the state is not to be saved
        print(f"{run.files.best}: the best model could NOT be saved", file=sys.stderr)
        run.status = 1


def log_where(run, stop, saved):
    """The last lines of a run that was stopped: why, where its state is, and how it is continued."""
    state = run.files.state
    where = (f"everything is saved in {state}" if saved else
             f"the last good state is in {state}" if os.path.exists(state) else "no state is saved")
    if run.progress.diverged:               # the same command would diverge again
        rate = f"{run.rate / 4:g}"
        command = resume_command("--lr", rate, resume=os.path.exists(state))
        log(f"| {stop}; {where}", f"| with a lower rate: {command}")
    else:
        log(f"| {stop}; {where}", f"| to continue: {resume_command()}")
    if stop.status == 1:
        print(f"{program.name()}: error: {stop}; {where}", file=sys.stderr)
