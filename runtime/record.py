"""What a finished run leaves for the tables: a JSON file that says what was done, by what, where, and how it ended."""
import itertools
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress

import numpy
import torch

from runtime import program
from runtime.fastest import processor
from runtime.log import duration, log, perplexity
from runtime.paths import atomic_write


def about(args, parameters):
    """What one must know to make use of a figure -> dict."""
    return {"script": program.script(), "settings": args.settings(), "parameters": parameters,
            "device": device_name(args.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "numpy": numpy.__version__, "cuda": torch.version.cuda}}


def device_name(device):
    """What computes, as a figure must name it: "NVIDIA H100 80GB HBM3", "cpu AMD EPYC, 2 threads (AVX512)"."""
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} {processor()}, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"


def figures(loss, rows, size=None):
    """A text's mean loss in nats, read in streams of `rows` tokens, as perplexities -> dict.

    The published code divides by all rows, though the first is not predicted; its perplexities are slightly lower.
    size: how many "tokens", "words" and "bytes" the text has, where that is known. Per word and per byte, models with
    different vocabularies can be compared: the loss is taken for that of all tokens, and divided by the others.
    """
    results = {"loss": loss, "bits_per_token": loss / math.log(2), "perplexity": perplexity(loss),
               "published_perplexity": perplexity(loss * (rows - 1) / rows)}
    if size:
        nats = loss * size["tokens"]
        results |= {"word_perplexity": perplexity(nats / size["words"]),
                    "byte_perplexity": perplexity(nats / size["bytes"]),
                    "bits_per_byte": nats / size["bytes"] / math.log(2), "words": size["words"], "bytes": size["bytes"]}
    return results


TOO_MANY = 1e6          # a perplexity per word that is beyond any vocabulary: of a text that is not in such words


def per_unit(figures):
    """Of `figures`, what compares vocabularies, for a log line; "" where it is not known."""
    if "bytes" not in figures:
        return ""
    per_word = f"{figures['word_perplexity']:.2f} per word, "
    if figures["word_perplexity"] > TOO_MANY:
        per_word = ""
    return f" ({per_word}{figures['bits_per_byte']:.3f} bits per byte)"


# Flags that do not tell two runs of a script apart: where it runs, how long, and what it writes besides its result.
NOT_COMPARED = frozenset((
    "save", "checkpoint", "model", "cache", "device", "cuda", "log_interval", "recipe", "resume", "max_minutes",
    "checkpoint_minutes", "per_token", "per_sentence", "format", "html", "features", "rescored", "best",
    "per_pair", "save_adapted"))


def typed(args):
    """The flags that the user typed and that decide what comes out -> dict, as JSON has it."""
    return json.loads(json.dumps({name: getattr(args, name) for name in sorted(args.given - NOT_COMPARED)}))


def result_path(path, args):
    """The name for the result of a run with the flags `args`: `path` or, where an earlier run with other flags left its
    result there, that name with a number, which is logged."""
    stem = path.removesuffix(".result.json")
    names = itertools.chain([path], (f"{stem}.{number}.result.json" for number in itertools.count(2)))
    name = next(name for name in names if not os.path.lexists(name) or _typed_for(name) == typed(args))
    if name != path:
        log(f"| {path} is of a run with other flags and is kept; the result of this one goes to {name}")
    return name


def _typed_for(path):
    """The flags that the result at `path` was made with; None where that is not known."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file).get("typed")
    except (OSError, ValueError, AttributeError):
        return None


def write(path, args, parameters, asked=None, **results):
    """Write `results` and all about the run to `path`, whole or not at all -> the path. What cannot be written is only
    logged -> None. args: the flags as they were used; asked: as they were typed, where a search has chosen others."""
    contents = {"recipe": args.recipe, "command": shlex.join(sys.argv), "commit": commit(),
                "date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "typed": typed(asked or args),
                **about(args, parameters), **results}
    try:
        with atomic_write(path) as file:
            json.dump(finite(contents), file, indent=1)
            file.write("\n")
    except OSError as error:
        log(f"| WARNING: {path} could not be written ({error.strerror})")
        return None
    return path


def summarise(figures_by_text, seconds, *facts, **files):
    """The last line of a script: what came out (`figures` by name), what it took, and the files to look at, if any."""
    parts = ["| summary",
             *(f"{name} ppl {each['perplexity']:.2f}{per_unit(each)}" for name, each in figures_by_text.items()),
             ", ".join([*facts, duration(seconds)])]
    written = [f"{what} {path}" for what, path in files.items() if path]
    if written:
        parts.append(", ".join(written))
    log(" | ".join(parts))


def remove(path):
    """Take away what an earlier, shorter run left: a result is of a run that has finished."""
    with suppress(OSError):
        os.unlink(path)


def finite(value):
    """JSON knows no infinity: the same with None in its place."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def commit():
    """The commit of this program, with a + where files were changed since; None where git cannot tell. A copy without
    its repository has that in $AWD_LSTM_COMMIT."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.exists(os.path.join(here, ".git")):     # installed, perhaps inside of another program's repository
        return os.environ.get("AWD_LSTM_COMMIT")
    try:
        done = subprocess.run(["git", "-C", here, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
                              capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
