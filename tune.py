"""Search the settings of main.py: which values of its flags give the lowest validation loss.

Takes all flags of main.py, which every trial gets, and searches those in --space. The search is a study of Optuna: its
sampler chooses settings, its pruner ends trials that fall behind, its storage is shared by all processes of a search. A
trial is a run of main.py. The best one is left as a run called --save.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

import checkpoint
from runtime import options, values
from runtime.errors import InputError
from runtime.log import counted, log, perplexity, surviving_a_lost_log, warn
from runtime.options import Arguments, Flag, shown
from runtime.paths import atomic_copy
from runtime.processes import resume_command
from runtime.run_files import Files
from runtime.signals import Interruption, Stop, exclusive
from training import optimizers, schedules, settings, space
from training.start import corpus_for, refuse_unsupported
from training.stopping import check_names

FLAGS = (
    Flag("space", None, "ranges to search: NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=ONE,OTHER; if not given, AR, TAR, "
         "the dropouts and the learning rate, as far as they are not typed", metavar="NAME=RANGE", nargs="+"),
    Flag("trials", 30, "number of trials, pruned and failed ones included", values.size, "N"),
    Flag("sampler", "tpe", "choice of settings: by Optuna's tree-structured Parzen estimator, which learns from the "
         "trials so far, or chance", choices=("tpe", "random")),
    Flag("pruner", "halving", "pruning of trials before --epochs: Optuna's successive halving or Hyperband, or none",
         choices=("halving", "hyperband", "none")),
    Flag("reduction", 3, "share of trials that the pruner lets go on: one of N", values.size, "N"),
    Flag("min_epochs", None, "epochs of a trial before it may be pruned; if not given, --epochs divided three times by "
         "--reduction", values.size, "E"),
    Flag("workers", 1, "trials at a time, each with a GPU or its share of the cores", values.size, "N"),
    Flag("storage", None, "database of the study, a URL as Optuna takes it; if not given, an SQLite file in "
         "NAME.search", metavar="URL"),
)
PER_TRIAL = {"save", "resume", "epochs", "max_minutes"}     # flags of main.py that the search sets
MAIN = Path(__file__).resolve().parent / "main.py"
NO_LOSS = "no epoch had a finite validation loss"
KILLS = 3                      # so often may a trial's process be killed in the same epoch


def optuna():
    """The package; a clear error where it is missing."""
    try:
        import optuna
    except ImportError:
        raise InputError("tune.py needs the package optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


# ---- a trial's process

def environments(workers, device):
    """What each of so many workers has in its environment: a GPU, or its share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if gpus and torch.cuda.is_available() and device in ("auto", "cuda"):
        return [{**os.environ, "CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} for worker in range(workers)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = {} if workers == 1 else {"OMP_NUM_THREADS": str(max(1, cores // workers))}
    return [{**shares, **os.environ}] * workers


# 1: PR_SET_PDEATHSIG
END_WITH_PARENT = partial(ctypes.CDLL(None).prctl, 1, signal.SIGTERM) if sys.platform == "linux" else None


def start(words, output, environment=None):
    """Start main.py with its output in a file that is open -> process.

    A Ctrl-C reaches the search alone, which stops its trials itself; should it be killed, they get a SIGTERM (on Linux)
    and save.
    """
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
                            start_new_session=True, preexec_fn=END_WITH_PARENT)


def losses_of(path):
    """The lowest validation loss so far after every epoch in a run's NAME.jsonl, infinite for none -> list."""
    losses = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() if os.path.exists(path) else ():
        try:
            loss = json.loads(line)["valid_loss"]
        except ValueError:                           # the last one, half written by a process that was killed
            break
        losses.append(min([math.inf if loss is None else loss, *losses[-1:]]))
    return losses


def last_words(path):
    """Why main.py ended, from its output: its error, or its last line."""
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines()]
    messages = [line.partition("error: ")[2] for line in lines if line.startswith("main.py: error: ")]
    return (messages or [line for line in lines if line] or ["it printed nothing"])[-1]


# ---- the search

def folder_of(save):
    return f"{Files(save).stem}.search"


def lock(folder):
    """Held by the process, and its worker, that decides something about the search in a folder."""
    return exclusive(os.path.join(folder, "search.lock"), wait=math.inf)


class Search:
    """A study of Optuna whose trials are runs of main.py.

    args: the flags, resolved. dimensions: what is searched. of_main: main.py's flags, by name. Several processes may
    share study and folder: one at a time, under a lock, decides what comes next.
    """

    def __init__(self, study, args, dimensions, of_main):
        self.study, self.args, self.dimensions, self.flags = study, args, dimensions, of_main
        self.files, self.folder = Files(args.save), folder_of(args.save)
        self.states = optuna().trial.TrialState
        self.fixed = [word for name, flag in of_main.items() if name in args.given and name not in PER_TRIAL
                      for word in flag.words(getattr(args, name))]
        self.stopping, self.deciding, self.at_work = threading.Event(), threading.Lock(), set()

    def run_files(self, run):
        return Files(os.path.join(self.folder, f"trial-{run:04}.pt"))

    def command(self, values, epochs, save):
        """main.py's command line for a trial's values -> words."""
        searched = [word for name, value in values.items() for word in self.flags[name].words(value)]
        return [sys.executable, str(MAIN), *self.fixed, *searched, "--epochs", str(epochs), "--save", save,
                "--resume", "auto"]

    def work(self, environment):
        """Run trials, one after another, until none is left."""
        while not self.stopping.is_set():
            with ExitStack() as held:
                with self.deciding, lock(self.folder):
                    trial, is_last = self._next(held)
                if trial:
                    self._train(trial, environment)
                elif is_last:
                    return
                else:
                    self.stopping.wait(0.5)          # what runs elsewhere may end before its time

    def _next(self, held):
        """The trial to run: one that has ended before its time, or a new one -> it or None, whether none will be left.

        Called under the lock. `held` gets that of the trial, by which others see that it is at work.
        """
        begun = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != self.states.WAITING]
        running = [trial for trial in begun if trial.state == self.states.RUNNING]
        for trial in running:
            with suppress(InputError):               # another worker has it
                self._take(trial.number, held)
                return optuna().trial.Trial(self._seeded(trial.number), trial._trial_id), False
        if len(begun) >= self.args.trials:
            return None, not running
        if not begun:                                # main.py's own values come first, where they are in the ranges
            values = vars(optimizers.resolve(self.args))
            self.study.enqueue_trial({each.name: values[each.name] for each in self.dimensions
                                      if each.contains(values[each.name])}, skip_if_exists=True)
        trial = self._seeded(len(begun)).ask()
        self._take(trial.number, held)
        return trial, False

    def _take(self, number, held):
        """Let others see, until `held` is closed, that a trial is at work. InputError where it is already."""
        if number in self.at_work:                   # where the file system has no locks
            raise InputError(f"trial {number} is at work")
        held.enter_context(exclusive(f"{self.run_files(number).stem}.worker"))
        self.at_work.add(number)
        held.callback(self.at_work.discard, number)

    def _seeded(self, number):
        """The study as the trial of that number sees it: another seed for each, whichever process draws it."""
        samplers, pruners, args = optuna().samplers, optuna().pruners, self.args
        seed = (args.seed * 1_000_003 + number) % 2**32
        return optuna().load_study(
            study_name=self.study.study_name, storage=self.study._storage,
            sampler=samplers.TPESampler(n_startup_trials=5, seed=seed) if args.sampler == "tpe" else
            samplers.RandomSampler(seed=seed),
            pruner=pruners.SuccessiveHalvingPruner(args.min_epochs, args.reduction) if args.pruner == "halving" else
            pruners.HyperbandPruner(args.min_epochs, args.epochs, args.reduction) if args.pruner == "hyperband" else
            pruners.NopPruner())

    def _train(self, trial, environment):
        """Run a trial's main.py, or continue it, and tell the study how it ended, if it has."""
        files, epochs, losses, pruned = self.run_files(trial.number), self.args.epochs, [], False
        values = {each.name: each.suggest(trial) for each in self.dimensions}
        reported = self.study.get_trials(deepcopy=False)[trial.number].last_step or 0
        with exclusive(files.lock, wait=math.inf):       # a main.py whose search was killed may still be saving
            pass
        with open(f"{files.stem}.log", "ab") as output:
            process = start([*self.command(values, epochs, files.best), "--no-test"], output, environment)
        try:
            running = True
            while running and not pruned:
                running = process.poll() is None
                for loss in losses_of(files.log)[len(losses):epochs]:
                    losses.append(loss)
                    if len(losses) > reported:
                        trial.report(loss, len(losses))
                    pruned = reported <= len(losses) < epochs and trial.should_prune()
                    if pruned:
                        break
                if running and self.stopping.wait(0.1):
                    return
        finally:
            process.terminate()
            status = process.wait()
        if pruned:
            self.study.tell(trial.number, state=self.states.PRUNED)
        elif status == 0 and len(losses) == epochs and losses[-1] < math.inf:
            self.study.tell(trial.number, losses[-1])
        elif reason := self._why_failed(trial, status, losses, f"{files.stem}.log"):
            trial.set_user_attr("reason", reason)
            self.study.tell(trial.number, state=self.states.FAIL)
        self._log(self.study.get_trials(deepcopy=False)[trial.number])

    def _why_failed(self, trial, status, losses, output):
        """Why a trial whose main.py has ended has failed; None where it is to be continued."""
        if status > 128 or -status in Interruption.SIGNALS:
            return None                              # others have asked it to stop
        if status < 0:
            killed = [*trial.user_attrs.get("killed", []), len(losses)]
            trial.set_user_attr("killed", killed)
            return (f"killed {KILLS} times in epoch {len(losses) + 1}, by {signal.Signals(-status).name}"
                    if killed[-KILLS:] == [len(losses)] * KILLS else None)
        return NO_LOSS if status == 0 and losses else last_words(output)

    def _log(self, trial):
        outcome = (f"failed: {trial.user_attrs['reason']}" if trial.state == self.states.FAIL else
                   "its process has ended: it will be continued" if trial.state == self.states.RUNNING else
                   f"valid loss {trial.value:6.3f} | valid ppl {perplexity(trial.value):8.2f}"
                   f"{' | pruned' if trial.state == self.states.PRUNED else ''}")
        values = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                  for name, value in trial.params.items())
        epochs = counted(len(trial.intermediate_values), "epochs")
        log(f"| trial {trial.number:3d} | {epochs:>10} | {outcome} | {' '.join(values)}")

    def leave_best(self):
        """Put the best run so far under `--save`, tested by the command that makes it -> whether there is one.

        What was there before has a numbered name then.
        """
        files = self.files
        ended = [trial for trial in self.study.get_trials(deepcopy=False)
                 if trial.state.is_finished() and trial.value is not None and trial.value < math.inf]
        if not ended:
            return False
        best = min(ended, key=lambda trial: trial.value)
        source = self.run_files(best.number)
        epochs = len(checkpoint.read(source.state)["losses"]["history"])
        with lock(self.folder), open(os.path.join(self.folder, "best.log"), "ab") as output:
            if self.study.user_attrs.get("best") != [best.number, epochs] or not os.path.exists(files.best):
                files.set_aside()
                for old, new in (source.state, files.state), (source.best, files.best), (source.log, files.log):
                    atomic_copy(old, new)
                if start(self.command(best.params, epochs, files.best), output).wait():
                    warn(f"{files.best} could not be tested: {last_words(output.name)}")
                else:
                    self.study.set_user_attr("best", [best.number, epochs])
        log(f"| best: trial {best.number} | valid ppl {perplexity(best.value):.2f} | model {files.best}"
            + (f", result {files.result}" if os.path.exists(files.result) else ""))
        return True


# ---- the command

def completed(args):
    """The command line with what other flags decide -> Arguments. InputError for what no search can be made of."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("tune.py is started without torchrun; --workers N runs several trials at a time")
    if args.resume not in (None, "auto"):
        raise InputError(f"--resume {args.resume}: a search is continued by --resume auto and its --save")
    check_names(args.save, Files(args.save))
    if "epochs" not in args.given or not args.epochs:
        raise InputError("give --epochs: how long a trial is trained that is not pruned")
    if args.reduction < 2:
        raise InputError("--reduction 1 would let every trial go on; for that give --pruner none")
    first = args.min_epochs or max(1, round(args.epochs / args.reduction ** 3))
    if first > args.epochs:
        raise InputError(f"--min-epochs {first} is more than --epochs {args.epochs}; give fewer")
    words = args.space or space.default(args)
    if not words:
        raise InputError("there is nothing to search: all of it was typed; give --space")
    return args.replaced(space=words, min_epochs=first)


def check(args, dimensions):
    """Raise InputError for what every trial's main.py would refuse: its text, and the flags at both ends of ranges."""
    for dimension in dimensions:
        if dimension.name in args.given:
            raise InputError(f"{dimension.flag.typed} is typed and in --space; leave one of them out")
    for end in (0, -1):
        values = {each.name: (each.choices or (each.low, each.high))[end] for each in dimensions}
        at_end = Arguments({**vars(args), **values}, args.given | values.keys())
        refuse_unsupported(at_end)
        schedules.plan(optimizers.resolve(at_end))
    corpus_for(args)


@contextmanager
def storage_errors(url):
    """Inside the block a database that cannot be used is an error of one line."""
    package = optuna()
    import sqlalchemy
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, package.exceptions.OptunaError, ImportError) as error:
        raise InputError(f"{url}: the study cannot be used: {str(error).splitlines()[0]}") from None


def open_study(args, url, flags):
    """The study of this --save, made where there is none. InputError where it is not to be continued as typed."""
    folder, name = folder_of(args.save), os.path.basename(Files(args.save).stem)
    os.makedirs(folder, exist_ok=True)
    with lock(folder):
        study = optuna().create_study(storage=url, study_name=name, load_if_exists=True)
        if study.trials and args.resume is None:
            raise InputError(f"{folder} holds a search already: --resume auto continues it; or choose another --save")
        bound = {name: getattr(args, name) for name, flag in flags.items() if (flag.kept and name in args.given) or
                 (flag in FLAGS and name not in ("workers", "storage", "trials"))}
        saved = study.user_attrs.get("flags", bound)
        for name in sorted({*saved, *bound}):
            if saved.get(name) != bound.get(name):
                there, typed = (shown(values[name]) if name in values else "(not given)" for values in (saved, bound))
                raise InputError(f"the search in {folder} has {flags[name].typed} {there}, the command line asks for "
                                 f"{typed}; give the same flags or choose another --save")
        study.set_user_attr("flags", bound)
    return study


def run(search, workers):
    """Run trials until none is left -> the Stop that ended it before, or None. workers: the environment of each."""
    with (Interruption(search.args.max_minutes, "stopping the trials; press Ctrl-C again to give up") as interruption,
          ThreadPoolExecutor(len(workers)) as pool):
        at_work = [pool.submit(search.work, environment) for environment in workers]
        try:
            while wait(at_work, 0.1, FIRST_EXCEPTION).not_done and not any(w.done() and w.exception() for w in at_work):
                interruption.check()
        except Stop as stop:
            return stop
        finally:
            search.stopping.set()
            for worker in at_work:
                worker.result()


def make_parser():
    return settings.add_to(options.Parser(__doc__)).add("search", FLAGS)


def main(argv=None):
    parser = make_parser()
    args = completed(options.parse(parser, argv))
    of_main = {name: flag for name, flag in parser.flags.items() if flag not in FLAGS}
    dimensions = space.parse(args.space, of_main)
    url = args.storage or f"sqlite:///{folder_of(args.save)}/study.db"
    optuna()
    check(args, dimensions)
    with surviving_a_lost_log(), storage_errors(url):
        search = Search(open_study(args, url, parser.flags), args, dimensions, of_main)
        log(f"| searching {shown(args.space)}", f"| {counted(args.trials, 'trials')} of at most "
            f"{counted(args.epochs, 'epochs')}, as "
            f"`optuna-dashboard {url}` shows them")
        stop = run(search, environments(args.workers, args.device))
        if not search.leave_best() and not stop:
            reasons = [trial.user_attrs.get("reason", NO_LOSS) for trial in search.study.trials]
            raise InputError(f"all trials failed, the last one: {reasons[-1]}; see {search.folder}")
        if stop:
            log(f"| {stop}; everything is saved in {search.folder}", f"| to continue: {resume_command()}")
    return stop.status if stop else 0


if __name__ == "__main__":
    errors.run(main)
