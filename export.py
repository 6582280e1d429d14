"""Models for other programs, and from them.

--to hf FOLDER writes a folder for Hugging Face's transformers, --to fastai FOLDER an encoder and a vocabulary for
fastai's AWD_LSTM, --to onnx FILE models for speech engines such as sherpa-onnx. --from FORMAT SOURCE makes a checkpoint
of a folder of the first two, or of the state dict of a plain LSTM or GRU model.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import os

import torch

import checkpoint
from corpus.vocabulary import read_as
from evaluation.text import read_text
from interchange import FROM, TO
from interchange.settings import contents_of
from model import count_parameters
from runtime import options
from runtime.devices import Compute
from runtime.errors import InputError
from runtime.log import log
from runtime.options import Flag
from runtime.paths import check_output

CPU = Compute(torch.device("cpu"), "fp32")
OF = {"tag": ("hf", "fastai"), "prepend_eos": ("hf",), "int8": ("onnx",), "tokens": ("onnx",), "split_words": ("hf",),
      "lower": ("hf",)}                                                      # flags of formats


def make_parser():
    parser = options.Parser(__doc__)
    parser.add("model", (options.save("the model to export, its fine-tuned version if there is one; with --from the "
                                      "checkpoint to write"), options.READ_MODEL[1]))
    parser.add("other programs", (
        Flag("to", None, f"format to write ({', '.join(TO)}), and the folder, of onnx the file, to write", nargs=2,
             metavar=("FORMAT", "TARGET")),
        Flag("tag", False, "of hf and fastai: a folder in TARGET named for the words between white space that the "
             "model has read in training, every reading counted, such as chck_1M", bool, only_true=True),
        Flag("prepend_eos", False, "of hf: a tokenizer that puts <eos>, the end of a line, before every text, so that "
             "the first token is predicted, too", bool, only_true=True),
        Flag("int8", None, "of onnx: models with 8-bit weights, too (dynamic quantisation), and a text whose "
             "perplexity under both is logged, each line by itself", metavar="TEXT"),
        Flag("tokens", None, "of onnx: a recogniser's tokens.txt, whose ids the models then take; the model is one of "
             "text that was cut into these tokens", metavar="FILE"),
        Flag("from", None, f"format to read ({', '.join(FROM)}), and the file or folder to read from", nargs=2,
             metavar=("FORMAT", "SOURCE")),
        Flag("vocab_file", None, "vocabulary of that model, where SOURCE has none: one word a line, or .pkl",
             metavar="FILE"),
        *options.READ_WORDS))
    return parser


def tag(words_seen, path):
    """The name of a revision by words seen, as BabyLM's: to the nearest million, below one to the nearest thousand."""
    if words_seen is None:
        raise InputError(f"{path} does not say how many words it has read in training: an earlier version wrote it, or "
                         "another program; leave --tag out")
    return f"chck_{round(words_seen / 1e6)}M" if words_seen >= 999_500 else f"chck_{round(words_seen / 1e3)}K"


def export_to(args, kind, target):
    path = checkpoint.choose(args)
    contents = checkpoint.load(path)
    vocabulary = read_as(checkpoint.vocabulary_of(contents), args.split_words, args.lower)
    contents["tokenizer"] = vocabulary.tokenizer.state()
    model = checkpoint.restore(contents, path, CPU)
    words_seen = checkpoint.words_seen(contents)
    if args.tag:
        target = os.path.join(target, tag(words_seen, path))
    of_format = {name: getattr(args, name) for name in ("prepend_eos", "tokens") if getattr(args, name)}
    if args.int8:
        text = read_text(args.int8, vocabulary, "unk", "reset", CPU.device)
        of_format["int8_lines"] = [stream.flatten().tolist()[1:-1] for stream in text.streams]     # without <eos>
    TO[kind](contents, model.state_dict(), target, words_seen, **of_format)
    log(f"| summary | {count_parameters(model):,} parameters, {len(contents['vocabulary']):,} words of {path} | "
        f"{kind} {target}")


def import_from(args, kind, source):
    check_output(args.save)
    if os.path.exists(args.save):
        raise InputError(f"{args.save} is there already; name a new file with --save")
    contents = contents_of(*FROM[kind](source, args.vocab_file), source)
    model = checkpoint.restore(contents, source, CPU)
    checkpoint.save(args.save, contents)
    log(f"| summary | {contents['settings']['model']} with {count_parameters(model):,} parameters, "
        f"{len(contents['vocabulary']):,} words of {source} | model {args.save}")


def main(argv=None):
    args = options.parse(make_parser(), argv)
    source = getattr(args, "from")
    if (args.to is None) == (source is None):
        raise InputError("give one of --to FORMAT TARGET and --from FORMAT SOURCE")
    (kind, path), formats = args.to or source, TO if args.to else FROM
    if kind not in formats:
        raise InputError(f"{kind!r} is no format for --{'to' if args.to else 'from'}; use one of {', '.join(formats)}")
    if args.to and args.vocab_file:
        raise InputError("--vocab-file is for --from; a checkpoint has its vocabulary")
    if source and args.checkpoint:
        raise InputError("--checkpoint is for --to; with --from, --save names the new file")
    for name, takers in OF.items():
        if getattr(args, name) and not (args.to and kind in takers):
            raise InputError(f"--{name.replace('_', '-')} is for --to {' or '.join(takers)}; leave it out")
    (export_to if args.to else import_from)(args, kind, path)
    return 0


if __name__ == "__main__":
    errors.run(main)
