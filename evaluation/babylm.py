"""BabyLM's zero-shot tasks of 2025 and 2026: its data -> the prediction files that its evaluation code collates.

Every text is read on its own, from a zero state and after <eos>, each once. Of a text that is one of several choices
the completion is scored, without the <eos> behind: the pieces that reach into it.
"""
import json
import math
import os
import re
from itertools import accumulate
from typing import NamedTuple

import torch

from corpus.reading import from_json, lines, naming, whole_text
from corpus.tokenizers import Words
from corpus.tokens import EOS
from evaluation import minimal_pairs
from evaluation.pair_files import table
from evaluation.pieces import bytes_of
from evaluation.text_files import writing
from runtime.errors import InputError
from runtime.log import counted, log
from runtime.options import Flag

FLAGS = (
    Flag("babylm", None, "BabyLM's zero-shot tasks, to predict instead: folders of its evaluation data, such as "
         "fast_eval, or of single tasks, such as full_eval/comps", metavar="FOLDER", nargs="+"),
    Flag("predictions", None, "folder for the prediction files of --babylm, such as results/MODEL/main or "
         "results/MODEL/chck_10M, where its own code looks for them", metavar="FOLDER"),
)
COMPS = {"comps_base": "base", "comps_wugs": "wugs", "comps_wugs_dist-before": "wugs_dist_before",
         "comps_wugs_dist-in-between": "wugs_dist_in_between"}              # names of files and of subtasks
PLACE = ("zero_shot", "causal")                                            # of predictions in those of a revision
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)   # of what JSON holds
REVISION = re.compile(r"chck_(\d+)([KM])")                                  # after so many words


class Choice(NamedTuple):
    """A text, the character that its completion starts at, and what a prediction for it says: the answer, or of a word
    in a context what is kept of it, a dict."""
    text: str
    start: int
    answer: str | dict


class Item(NamedTuple):
    """Choices of which the first is the right one; of wugs, forms of which people take the first with some frequency.
    """
    subtask: str
    choices: list


class Dataset(NamedTuple):
    """What is predicted of a folder. task: as its code calls it; name: of the folder. items: `Item`s, or of reading and
    age of acquisition `Choice`s alone, words in a context."""
    task: str
    name: str
    items: list


# ---- data -> items

def whole(sentences):
    return [Choice(sentence, 0, sentence) for sentence in sentences]


def after(context, completions):
    return [Choice(context + completion, len(context), completion) for completion in completions]


def blimp(row, file):
    """BLiMP and its supplement, which names no subtasks."""
    return Item(row["UID"] if "field" in row else file, whole([row["sentence_good"], row["sentence_bad"]]))


def ewok(row, file):
    return Item(row["Domain"], after(row["Context1"], [f" {row['Target1']}", f" {row['Target2']}"]))


def entity_tracking(row, file):
    return Item(f"{file}_{row['numops']}_ops", after(row["input_prefix"], row["options"]))


def comps(row, file):
    """Two beginnings with one completion: the whole sentence is the prediction, as the completion tells nothing."""
    beginnings = [f"{row[name]} " for name in ("prefix_acceptable", "prefix_unacceptable")]
    return Item(COMPS[file], [Choice(text + row["property_phrase"], len(text), text + row["property_phrase"])
                              for text in beginnings])


def wugs(task):
    return lambda row, file: Item(task, whole(row["sentences"].split("\t")))


# By how the names of folders begin.
TASKS = {"blimp": ("blimp", blimp), "supplement": ("blimp", blimp), "ewok": ("ewok", ewok),
         "entity_tracking": ("entity_tracking", entity_tracking), "comps": ("comps", comps),
         "wug_adj": ("wug_adj", wugs("wug_adj")), "wug_past": ("wug_past", wugs("wug_past"))}


def choices(folder, decode):
    """The items of a folder of JSON lines."""
    items = []
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".jsonl")):
        path = os.path.join(folder, file)
        for number, line in enumerate(lines(path), 1):
            if not line.strip():
                continue
            try:
                items.append(decode(from_json(line), file.removesuffix(".jsonl")))
                texts = [items[-1].subtask, *(choice.text for choice in items[-1].choices)]
                if len(texts) < 2 or not all(isinstance(text, str) and text for text in texts):
                    raise ValueError
            except MALFORMED:
                raise InputError(f"{path}: line {number} is no item of this task: {line.strip()[:60]!r}") from None
    return items


def spaced(before, word):
    """Two texts with white space between them."""
    return f"{before}{word}" if not before or before[-1].isspace() or word[:1].isspace() else f"{before} {word}"


def reading(path):
    """The words of reading_data.csv and those before them, each after what was read by then and a space, which is not
    in the file."""
    with naming(path):
        rows = table(list(lines(path)))
        missing = {"item", "word", "prev_item", "prev_word"} - rows[0].keys()
        if missing:
            raise InputError(f"has no column {min(missing)}")
    return [Choice(spaced(row[item], row[word]), len(row[item]), {"id": number, "as": name})
            for number, row in enumerate(rows)
            for item, word, name in (("item", "word", "pred"), ("prev_item", "prev_word", "prev_pred"))
            if row[item] or name == "pred"]


def acquisition(path):
    """Words of more than a letter in the contexts of cdi_childes.json."""
    try:
        contexts_by_word = from_json(whole_text(path, path))
        return [Choice(f"{each['context'].strip()} {word.strip()}", len(each["context"].strip()) + 1,
                       {"target_word": word, "context_id": number, "context": each["context"]})
                for word, contexts in contexts_by_word.items() if len(word) > 1
                for number, each in enumerate(contexts)]
    except MALFORMED:
        raise InputError(f"{path}: is not of words, each with its contexts") from None


FILES = {"reading": ("reading_data.csv", reading), "aoa": ("cdi_childes.json", acquisition)}


def dataset(folder):
    """What a folder is by its file or its name -> Dataset, or None."""
    name = os.path.basename(os.path.normpath(folder))
    for task, (file, read_file) in FILES.items():
        if os.path.exists(path := os.path.join(folder, file)):
            return Dataset(task, name, read_file(path))
    for beginning, (task, decode) in TASKS.items():
        if name.startswith(beginning) and (items := choices(folder, decode)):
            return Dataset(task, name, items)
    return None


def read(folders):
    """All datasets in folders, or that these are -> list. What is none of the tasks is left out."""
    datasets = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: no such folder")
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
        here = list(filter(None, map(dataset, [folder, *below])))
        if not here:
            raise InputError(f"{folder}: holds none of BabyLM's zero-shot tasks, such as blimp_filtered or reading")
        datasets += here
    return datasets


# ---- items -> predictions

def logprob(choice, reading, tokenizer):
    """The log-probability of a `Choice`'s completion in nats."""
    inside = reach_beyond(choice.start, choice.text, reading, tokenizer)
    return math.fsum(each for each, counts in zip(reading.logprobs, inside) if counts)


def reach_beyond(start, text, reading, tokenizer):
    """Whether each token of a `Reading` of `text`, but the <eos> behind, ends after so many characters -> list."""
    if isinstance(tokenizer, Words):                          # of which the parts end with the word
        ends = [word.end() for word in re.finditer(r"\S+|\n", text)]
        return [ends[number] > start for number in reading.numbers[:-1]]
    before = text[:start].lower() if tokenizer.lower else text[:start]        # of some letters longer than as typed
    if not tokenizer.complete:                                # a token is a character
        return [number >= len(before) for number in range(len(reading.tokens) - 1)]
    lengths = [1 if token == EOS else len(bytes_of(token)) for token in reading.tokens[:-1]]
    return [end > len(before.encode()) for end in accumulate(lengths)]


def predict(data, readings, tokenizer):
    """A Dataset of choices -> {subtask: {"predictions": list}} and {subtask: whether each prediction is right}."""
    predictions, right = {}, {}
    for item in data.items:
        sums = torch.tensor([logprob(choice, readings[choice.text], tokenizer) for choice in item.choices])
        best = int(sums.argmax())
        of_subtask = predictions.setdefault(item.subtask, [])
        of_subtask.append({"id": f"{item.subtask}_{len(of_subtask)}", "pred": item.choices[best].answer,
                           **({"prob": sums.softmax(0)[0].item()} if data.task.startswith("wug") else {})})
        right.setdefault(item.subtask, []).append(best == 0)
    return {name: {"predictions": of_subtask} for name, of_subtask in predictions.items()}, right


def predict_reading(data, readings, tokenizer):
    """Minus the log-probabilities of words and, or NaN, of those before them -> {"reading": {"predictions": list}}."""
    rows = {}
    for context in data.items:
        number, name = context.answer["id"], context.answer["as"]
        row = rows.setdefault(number, {"id": number, "pred": math.nan, "prev_pred": math.nan})
        row[name] = -logprob(context, readings[context.text], tokenizer)
    return {"reading": {"predictions": list(rows.values())}}


def surprisals(data, readings, tokenizer, step):
    """Of a revision's words in contexts, in nats -> list of dicts."""
    number, unit = REVISION.fullmatch(step).groups()
    return [{"step": step, "word_count": int(number) * {"K": 10**3, "M": 10**6}[unit], **context.answer,
             "surprisal": -logprob(context, readings[context.text], tokenizer)} for context in data.items]


def with_others(path, own_surprisals, step, name):
    """A revision's surprisals among those of others of the model `name` that are at `path` -> dict."""
    others = []
    if os.path.exists(path):
        try:
            others = [entry for entry in from_json(whole_text(path, path))["results"] if entry["step"] != step]
        except MALFORMED:
            raise InputError(f"{path}: is no file of surprisals; remove it") from None
    steps = len({entry["step"] for entry in others}) + 1
    return {"metadata": {"model_name": name, "use_bos_only": False, "total_steps": steps, "completed_steps": steps},
            "results": others + own_surprisals}


# ---- the script

def evaluate(args, datasets, vocabulary, device, model, check):
    """Predict all datasets, log and write -> dict for a result."""
    os.makedirs(args.predictions, exist_ok=True)                # where that cannot be, it is said before the work
    tokenizer, figures, files = vocabulary.tokenizer, {}, {}
    folder, step = os.path.split(os.path.normpath(args.predictions))
    for data in datasets:
        if data.task == "aoa" and not REVISION.fullmatch(step):
            log(f"| aoa left out: it is of revisions, with names such as chck_10M for --predictions, not {step}")
            continue
        texts = minimal_pairs.cut([each.text for item in data.items for each in getattr(item, "choices", [item])],
                                  vocabulary, device, args.unknown, args.untrained_unk, data.name)
        readings = minimal_pairs.read(texts, model, args.bptt, args.temperature, check)
        figures[data.name], right, place = {"items": len(data.items)}, {}, [data.task, data.name]
        if data.task == "aoa":
            path = os.path.join(folder, "main", *PLACE, "AoA_word", "surprisal.json")
            files[path] = with_others(path, surprisals(data, readings, tokenizer, step), step,
                                      os.path.basename(folder))
            continue
        if data.task == "reading":
            predictions, place = predict_reading(data, readings, tokenizer), ["reading"]
        else:
            predictions, right = predict(data, readings, tokenizer)
        files[os.path.join(args.predictions, *PLACE, *place, "predictions.json")] = predictions
        if right and not data.task.startswith("wug"):
            subtasks = {name: sum(each) / len(each) for name, each in right.items()}
            accuracy = sum(subtasks.values()) / len(subtasks)
            log(f"| {data.name} | accuracy {accuracy:.1%}, mean of {counted(len(subtasks), 'subtasks')}, "
                f"{counted(len(data.items), 'items')}")
            figures[data.name] |= {"accuracy": accuracy, "subtasks": subtasks}
    for path, contents in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with writing(path) as file:
            json.dump(contents, file)
        log(f"| wrote {path}")
    return {"babylm": figures}
