"""Make a corpus of one's own text: train.txt, valid.txt and test.txt in tokens, and the tokenizer beside them.

FILE is raw text in UTF-8, a folder of such files, or - for standard input. Lines, documents or files are dealt to the
three texts at random, always in the same way. The vocabulary, and what a tokenizer learns, is of the training text
alone; of words and chars, what is not in it becomes <unk>.
"""
from runtime import errors  # isort: skip  (first: it prepares the process for the imports below)

import os
import sys

from corpus import own_text
from corpus.cache import SPLITS
from corpus.tokens import EOS, UNK
from corpus.vocabulary import TOKENIZERS
from corpus.word_parts import WORD_SPLITS
from runtime import options, values
from runtime.errors import InputError
from runtime.log import counted, log, warn
from runtime.options import Flag
from runtime.paths import atomic_folder


def share(text):
    return values.number(text, float, lambda x: 0 < x < 0.5, "a share above 0 and below 0.5")


def make_parser():
    parser = options.Parser(__doc__)
    parser.prog += " text"
    parser.add_argument("files", nargs="*", metavar="FILE", help="text to read")
    parser.add("tokens", (
        Flag("tokenizer", "words", "kind of tokens: words between white space, characters, or pieces of words by byte "
             "pair encoding or unigram, which need the package tokenizers", choices=tuple(TOKENIZERS)),
        Flag("vocab_size", None, f"size of the vocabulary, {EOS} and {UNK} included: of bpe and unigram what they "
             "learn, of words and chars the most", values.size, "N"),
        Flag("min_count", 2,
             f"of words and chars: least occurrences in the training text of a token that is not read as {UNK}",
             values.size, "N"),
        Flag("split_words", "none", "splitting of words: punctuation in front of and behind them as words of its own, "
             "or contractions, too (do n't), as Penn Treebank has them", choices=WORD_SPLITS),
        Flag("lower", False, "text in lower case", bool, only_true=True)))
    parser.add("texts", (
        Flag("by", "lines", "unit that is dealt: lines, documents with empty lines between them, or whole files",
             choices=("lines", "documents", "files")),
        Flag("valid", 0.05, "share of them for validation", share, "X"),
        Flag("test", 0.05, "share of them for the test", share, "X"),
        Flag("dedup", False, "each of them once, so that none is in two texts", bool, only_true=True),
        Flag("seed", 1111, "seed of the dealing", values.seed, "N")))
    parser.add("files", (Flag("out", None, "folder to write", metavar="FOLDER"),))
    return parser


def check(args, kind):
    """Raise InputError for flags that do not go together."""
    if not args.files or args.out is None:
        raise InputError("say what to read, and where to: prepare.py text FILE… --out FOLDER")
    if kind.complete and args.vocab_size is None:
        raise InputError(f"--tokenizer {kind.name} needs --vocab-size, such as 10000")
    if kind.complete and "min_count" in args.given:
        raise InputError(f"--tokenizer {kind.name} knows every text: --min-count is of words and chars")
    if args.split_words != "none" and kind.name != "words":
        raise InputError(f"--split-words is of words; --tokenizer {kind.name} reads all characters")
    if not kind.complete and args.vocab_size is not None and args.vocab_size < 3:
        raise InputError(f"--vocab-size {args.vocab_size} has no room for more than {EOS} and {UNK}")


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["text"]:
        del words[0]
    elif not {"-h", "--help"} & set(words):
        raise InputError("say what to prepare: prepare.py text FILE… --out FOLDER")
    args = options.parse(make_parser(), words)
    kind = TOKENIZERS[args.tokenizer]
    check(args, kind)
    files = own_text.find_files(args.files, args.out)
    own_text.check_out(args.out)
    with atomic_folder(args.out, replace=True) as folder:
        text = own_text.Text(folder)
        text.read(files, args.by, args.dedup)
        text.deal(args.valid, args.test, args.seed, args.by)
        tokenizer = kind.train(text.lines("train", "learning from"), args.vocab_size, args.lower,
                               **({"split": args.split_words} if kind.name == "words" else {}))
        frequent = None if kind.complete else own_text.frequent(text, tokenizer, args.min_count, args.vocab_size)
        written = {split: own_text.write_split(os.path.join(folder, f"{split}.txt"), text, split, tokenizer, frequent)
                   for split in SPLITS}
        vocabulary = own_text.vocabulary_of(written["train"].counts, tokenizer, frequent)
        own_text.write_description(folder, vocabulary, {split: part.size for split, part in written.items()},
                                   args.settings())

    for split, (counts, size, _, lines) in written.items():
        log(" | ".join([f"| {split:5}", counted(lines, "lines"), *(counted(size[unit], unit) for unit in (
            "words", "bytes", "tokens"))])
            + (f" | {counts[UNK] / size['tokens']:.2%} {UNK}" if counts[UNK] else ""))
    warn(*own_text.warnings_about(written, vocabulary, args.vocab_size))
    warn(*text.missed_shares(args.valid, args.test, args.by))
    log(f"| summary | {counted(len(files), 'files')}, {counted(len(text.lengths), args.by)}"
        + (f", {counted(text.duplicates, 'duplicates left out')}" if args.dedup else "")
        + f" | vocabulary {len(vocabulary):,} | folder {args.out}")


if __name__ == "__main__":
    errors.run(main)
