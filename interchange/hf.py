"""Hugging Face transformers: a folder for `AutoModelForCausalLM`, `AutoModel`, classifiers and `AutoTokenizer`.

config.json, model.safetensors, the modelling file (a copy of modeling_awd_lstm.py), a tokenizer, and the special tokens
for `generate`. Needs the packages safetensors and, to write, tokenizers.
"""
import json
import os
import shutil
import sys

import torch

from checkpoint import vocabulary_of
from corpus import word_parts
from corpus.subwords import token_of
from corpus.tokens import data_of, visible
from data import EOS, UNK, naming
from interchange.foreign import check_words, float_tensors, read_json
from interchange.settings import check_folder, exported_settings, refuse, width_of_last
from runtime.errors import InputError
from runtime.paths import atomic_folder

CODE = "modeling_awd_lstm.py"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
INDEX = f"{WEIGHTS}.index.json"                           # of weights in several files, which only transformers write
FILES = (CODE, CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json", "generation_config.json")
MODEL_TYPE = "awd_lstm"
SHAPE = ("emsize", "nhid", "nlayers", "skip_output", "cutoffs", "gate", "rhn_depth", "mogrifier_rounds",
         "mogrifier_rank")                                # with the same names there
IN_CONFIG = ("model", "softmax", "mixtures", "nhidlast", "tied")     # with other names, or otherwise
CELLS = {"LSTM", "GRU", "QRNN", "RHN", "Mogrifier"}
LANGUAGE_MODEL = "AWDLSTMForCausalLM"
MODELS = {"AutoModel": "AWDLSTMModel", "AutoModelForCausalLM": LANGUAGE_MODEL,
          "AutoModelForSequenceClassification": "AWDLSTMForSequenceClassification",
          "AutoModelForTokenClassification": "AWDLSTMForTokenClassification"}
NETWORK = "model."                                        # how the names of what has no head begin there
ROWS = ("encoder.weight", "decoder.weight", "decoder.bias")          # which have one for each word
PADDING_LOGIT = -1e4                                      # of the token of padding: its probability is 0


def packages():
    """The modules safetensors.torch and tokenizers."""
    try:
        import safetensors.torch
        import tokenizers
    except ImportError as error:
        raise InputError(f"Hugging Face's format needs the package {error.name}: pip install safetensors tokenizers"
                         ) from None
    return safetensors.torch, tokenizers


def special_tokens(words):
    """The tokens that have a role in transformers, by role. That of padding is none of the words."""
    pad = "<pad>"
    while pad in words:
        pad = f"<{pad}>"
    roles = {"unk_token": UNK} if UNK in words else {}
    return {**roles, **(dict.fromkeys(("bos_token", "eos_token"), EOS) if EOS in words else {}), "pad_token": pad}


def make_tokenizer(vocabulary, tokenizers, prepend_eos=False):
    """A tokenizer that cuts a text as training did, with `<eos>` for the end of a line.

    prepend_eos: it also puts one before each text, unless it is told to add no special tokens.
    """
    cut = vocabulary.tokenizer
    make = {"words": split_words, "chars": split_characters}.get(cut.name)
    made = make(vocabulary, tokenizers) if make else cut.library(vocabulary)
    if EOS in vocabulary:
        lower = [tokenizers.normalizers.Lowercase()] if cut.lower else []
        end = f" {EOS} " if cut.name == "words" else EOS
        lines = tokenizers.normalizers.Replace(tokenizers.Regex(r"\r\n|\r|\n"), end)
        made.normalizer = tokenizers.normalizers.Sequence([*lower, lines])
        made.add_special_tokens([tokenizers.AddedToken(EOS, normalized=cut.name != "words", special=True)])
    if prepend_eos:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{EOS} $A", pair=f"{EOS} $A {EOS} $B", special_tokens=[(EOS, vocabulary.index(EOS))])
    pad = special_tokens(vocabulary)["pad_token"]
    made.add_special_tokens([tokenizers.AddedToken(pad, normalized=False, special=True)])    # the next id
    return made


def split_words(words, tokenizers):
    """A tokenizer that splits as data.py reads a text: at Python's white space; and words as they were split.

    An unknown word is `<unk>`, or without that in the vocabulary an error. What is decoded begins with a space: it may
    be what follows a prompt.
    """
    white = "".join(f"\\x{{{i:x}}}" for i in range(sys.maxunicode + 1) if chr(i).isspace())
    made = by_name(words, tokenizers)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[{white}]+"), "removed")
    if words.tokenizer.split != "none":
        part_pattern = tokenizers.Regex(word_parts.pattern(words.tokenizer.split))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [made.pre_tokenizer, tokenizers.pre_tokenizers.Split(part_pattern, "isolated")])
    made.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.Replace(tokenizers.Regex(r"\A"), " "),
                                                 tokenizers.decoders.Fuse()])
    return made


def split_characters(words, tokenizers):
    """A tokenizer of single characters, which stand for themselves there."""
    made = by_name([word if word in (EOS, UNK) else data_of(word).decode("utf-8", "replace") for word in words],
                   tokenizers)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    return made


def by_name(words, tokenizers):
    """A tokenizer whose tokens are just these, with their places as ids."""
    ids = {word: i for i, word in enumerate(words)}
    return tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=UNK))


def with_padding(state):
    """A state dict under the names that the modelling file has, with a last word that is never predicted."""
    padded = {}
    for name, tensor in state.items():
        if name in ROWS:
            row = torch.full_like(tensor[:1], PADDING_LOGIT if name == "decoder.bias" else 0.0)
            tensor = torch.cat([tensor, row])
        padded[f"{NETWORK}{name}" if name.startswith(("encoder.", "rnns.")) else name] = tensor.contiguous()
    return padded


def write(contents, state, folder, words_seen, prepend_eos=False):
    """A model as a folder for transformers. InputError for a cell that the modelling file has not.

    prepend_eos: as of `make_tokenizer`.
    """
    settings, words = contents["settings"], vocabulary_of(contents)
    refuse(settings, "hf", CELLS, {"split", "mixture"})
    if prepend_eos and EOS not in words:
        raise InputError(f"the model has no {EOS} that --prepend-eos could put before a text; leave it out")
    check_folder(folder, FILES, CODE)
    safetensors, tokenizers = packages()
    tokenizer = make_tokenizer(words, tokenizers, prepend_eos)
    tokens = special_tokens(words)
    ids = {f"{role}_id": words.index(token) for role, token in tokens.items() if token in words and token != UNK}
    ids["pad_token_id"] = len(words)
    config = {"model_type": MODEL_TYPE, "architectures": [LANGUAGE_MODEL],
              "auto_map": {name: f"{CODE[:-3]}.{model}" for name, model in {"AutoConfig": "AWDLSTMConfig",
                                                                            **MODELS}.items()},
              "cell": settings["model"], "vocab_size": len(words) + 1, **{name: settings[name] for name in SHAPE},
              "cutoffs": settings["cutoffs"] or [],      # those of a mixture are None
              "mixtures": settings["mixtures"] if settings["softmax"] == "mixture" else 0,
              "nhidlast": width_of_last(settings), "tie_word_embeddings": settings["tied"], "dtype": "float32", **ids,
              "words_seen": words_seen, "settings": exported_settings(settings, without=(*SHAPE, *IN_CONFIG)),
              "tokenizer": words.tokenizer.state()}
    with atomic_folder(folder, replace=True) as partial:
        def write_json(name, value):
            with open(os.path.join(partial, name), "w", encoding="utf-8") as file:
                json.dump(value, file, indent=1, ensure_ascii=False)

        write_json(CONFIG, config)
        write_json("generation_config.json", ids)
        write_json("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **tokens,
                                             "clean_up_tokenization_spaces": False,
                                             "model_input_names": ["input_ids", "attention_mask"]})
        # Both packages' own writing raises errors of their own where a disk is full.
        with open(os.path.join(partial, TOKENIZER), "w", encoding="utf-8", newline="\n") as file:
            file.write(tokenizer.to_str(pretty=True))
        with open(os.path.join(partial, WEIGHTS), "wb") as file:
            file.write(safetensors.save(with_padding(state), metadata={"format": "pt"}))
        shutil.copyfile(os.path.join(os.path.dirname(__file__), CODE), os.path.join(partial, CODE))


def read(folder, vocab_file):
    """A folder that `write` made, or transformers' `save_pretrained` of that -> as in `FROM`. No code in it is run."""
    if vocab_file is not None:
        raise InputError(f"--from hf reads the vocabulary in {folder}; leave --vocab-file out")
    config, tokenizer = (read_json(os.path.join(folder, name)) for name in (CONFIG, TOKENIZER))
    path = os.path.join(folder, CONFIG)
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(f"{path}: its model_type is {config.get('model_type')!r}; only {MODEL_TYPE}, which --to hf "
                         "writes, can be read")
    if LANGUAGE_MODEL not in str(config.get("architectures") or LANGUAGE_MODEL):
        raise InputError(f"{path}: its architectures are {config['architectures']}, without what predicts words; only "
                         f"{LANGUAGE_MODEL} can be read, which AutoModelForCausalLM saves")
    whole, index = (os.path.join(folder, name) for name in (WEIGHTS, INDEX))
    sharded = os.path.lexists(index) and not os.path.lexists(whole)         # transformers, too, prefer the whole
    tensors = {name.removeprefix(NETWORK): tensor
               for name, tensor in (read_shards(index) if sharded else read_weights(whole)).items()}
    tied = config.get("tie_word_embeddings", True)
    if tied:
        tensors.pop("decoder.weight", None)               # some versions of transformers write it, too
    words = read_vocabulary(tokenizer, os.path.join(folder, TOKENIZER), config.get("tokenizer"))
    if config.get("pad_token_id") == len(words) - 1 and words[-1] not in (EOS, UNK):
        words, tensors = words[:-1], {name: tensor[:-1] if name in ROWS else tensor for name, tensor in tensors.items()}
    check_words(words, len(words), os.path.join(folder, TOKENIZER))
    settings = config["settings"] if isinstance(config.get("settings"), dict) else {}
    shape = {name: config[name] for name in SHAPE if name in config}
    shape["cutoffs"] = config.get("cutoffs") or (None if config.get("mixtures") else [])
    if config.get("mixtures"):
        shape |= {"softmax": "mixture", "mixtures": config["mixtures"]}
    return tensors, words, {**settings, **shape, **{name: config.get(name) for name in ("nhidlast", "words_seen",
                            "tokenizer")}, "model": config.get("cell"), "tied": tied}


def read_weights(path):
    """A safetensors file -> dict of float32 tensors."""
    load_file = packages()[0].load_file
    with naming(path):
        open(path, "rb").close()                          # its errors are the system's, with a name
        try:
            tensors = load_file(path)
        except Exception as error:
            raise InputError(f"is damaged or no safetensors file ({str(error)[:120]})") from None
    return float_tensors(tensors, path)


def read_shards(index):
    """The files that an index names, all in its folder -> dict of float32 tensors."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise InputError(f"{index}: is damaged: its weight_map does not say which tensor is in which file; save the "
                         "model again")
    tensors = {}
    for file in sorted(set(files.values())):
        if os.path.basename(file) != file or not file.endswith(".safetensors") or not file.isprintable():
            raise InputError(f"{index}: names the file {file!r}, which is no .safetensors file of its folder; save the "
                             "model again")
        path = os.path.join(os.path.dirname(index), file)
        if not os.path.exists(path):
            raise InputError(f"{path}: is missing, and {INDEX} names it; copy all files of the model")
        shard, listed = read_weights(path), {name for name, where in files.items() if where == file}
        if shard.keys() != listed:
            raise InputError(f"{path}: {INDEX} says something else of {sorted(shard.keys() ^ listed)[0]}; they are not "
                             "of one model: copy all of its files, or save it again")
        tensors |= shard
    return tensors


def read_vocabulary(tokenizer, path, state):
    """The words of a tokenizer.json, in the order of their ids; those that were added to it are among them.

    state: as of `Tokenizer.state`, of the tokenizer that it was made from.
    """
    try:
        vocab = tokenizer["model"]["vocab"]
        if isinstance(vocab, list):                       # unigram's, with scores
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        ids = {**vocab, **{added["content"]: added["id"] for added in tokenizer["added_tokens"]}}
        words = sorted(ids, key=ids.__getitem__)
        special = {EOS, UNK, *(added["content"] for added in tokenizer["added_tokens"])}
        whole = [ids[word] for word in words] == list(range(len(words)))
        if tokenizer["model"]["type"] != "WordLevel":
            words = [word if word in special else token_of(word) for word in words]
        elif isinstance(state, dict) and state.get("kind") == "chars":
            words = [word if word in special else visible(word.encode()) for word in words]
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{path}: is not the tokenizer of such a model: its words are not numbered from 0 on")
    return words
