"""Hugging Face transformers: a folder for `AutoModelForCausalLM` and `AutoTokenizer`.

config.json, model.safetensors, the modelling file (a copy of modeling_awd_lstm.py), a tokenizer, and the special tokens
for `generate`. Needs the packages safetensors and, to write, tokenizers.
"""
import json
import os
import shutil
import sys

from checkpoint import vocabulary_of
from corpus.tokenizers import token_of
from data import EOS, UNK, naming
from interchange.foreign import check_words, float_tensors, read_json
from interchange.settings import kept, refuse
from runtime.errors import InputError
from runtime.paths import atomic_folder

CODE = "modeling_awd_lstm.py"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FILES = (CODE, CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json", "generation_config.json")
MODEL_TYPE = "awd_lstm"
SHAPE = ("emsize", "nhid", "nlayers", "skip_output", "cutoffs")      # with the same names there


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
    """The tokens that have a role in transformers, by role. Those of padding are masked: any word serves."""
    found = {"unk_token": UNK} if UNK in words else {}
    return {**found, **dict.fromkeys(("bos_token", "eos_token", "pad_token"), EOS)} if EOS in words else found


def make_tokenizer(vocabulary, tokenizers):
    """A tokenizer that cuts a text as training did, with `<eos>` for the end of a line. InputError for one of chars."""
    cut = vocabulary.tokenizer
    if cut.name == "words":
        made, end = split_words(vocabulary, tokenizers), f" {EOS} "
    elif hasattr(cut, "library"):
        made, end = cut.library(vocabulary), EOS
    else:
        raise InputError(f"a model of --tokenizer {cut.name} cannot be exported to hf; those of words, bpe and unigram "
                         "can")
    if EOS in vocabulary:
        lower = [tokenizers.normalizers.Lowercase()] if cut.lower else []
        lines = tokenizers.normalizers.Replace(tokenizers.Regex(r"\r\n|\r|\n"), end)
        made.normalizer = tokenizers.normalizers.Sequence([*lower, lines])
        made.add_special_tokens([tokenizers.AddedToken(EOS, normalized=cut.name != "words", special=True)])
    return made


def split_words(words, tokenizers):
    """A tokenizer that splits as data.py reads a text: at Python's white space.

    An unknown word is `<unk>`, or without that in the vocabulary an error.
    """
    white = "".join(f"\\x{{{i:x}}}" for i in range(sys.maxunicode + 1) if chr(i).isspace())
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[{white}]+"), "removed")
    return made


def write(contents, state, folder, words_seen):
    """A model as a folder for transformers. InputError for a cell or softmax that the modelling file has not."""
    settings, words = contents["settings"], vocabulary_of(contents)
    refuse(settings, "hf", {"LSTM", "GRU"})
    save_file, tokenizers = packages()[0].save_file, packages()[1]
    tokenizer = make_tokenizer(words, tokenizers)
    tokens = special_tokens(words)
    ids = {f"{role}_id": words.index(token) for role, token in tokens.items() if role != "unk_token"}
    last = state[f"rnns.{settings['nlayers'] - 1}.weight_hh_l0"].size(1)
    config = {"model_type": MODEL_TYPE, "architectures": ["AWDLSTMForCausalLM"],
              "auto_map": {"AutoConfig": f"{CODE[:-3]}.AWDLSTMConfig",
                           "AutoModelForCausalLM": f"{CODE[:-3]}.AWDLSTMForCausalLM"},
              "cell": settings["model"], "vocab_size": len(words), **{name: settings[name] for name in SHAPE},
              "nhidlast": last, "tie_word_embeddings": settings["tied"], "dtype": "float32", **ids,
              "words_seen": words_seen, "settings": kept(settings), "tokenizer": words.tokenizer.state()}
    with atomic_folder(folder, FILES, CODE) as partial:
        def write_json(name, value):
            with open(os.path.join(partial, name), "w", encoding="utf-8") as file:
                json.dump(value, file, indent=1, ensure_ascii=False)

        write_json(CONFIG, config)
        write_json("generation_config.json", ids)
        write_json("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **tokens,
                                             "clean_up_tokenization_spaces": False,
                                             "model_input_names": ["input_ids", "attention_mask"]})
        tokenizer.save(os.path.join(partial, TOKENIZER))
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, os.path.join(partial, WEIGHTS),
                  metadata={"format": "pt"})
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
    tensors = read_weights(os.path.join(folder, WEIGHTS))
    tied = config.get("tie_word_embeddings", True)
    if tied:
        tensors.pop("decoder.weight", None)               # some versions of transformers write it, too
    words = read_vocabulary(tokenizer, os.path.join(folder, TOKENIZER))
    check_words(words, len(words), os.path.join(folder, TOKENIZER))
    settings = config["settings"] if isinstance(config.get("settings"), dict) else {}
    shape = {name: config.get(name) for name in (*SHAPE, "nhidlast", "words_seen", "tokenizer")}
    return tensors, words, {**settings, **shape, "model": config.get("cell"), "cutoffs": config.get("cutoffs") or [],
                            "tied": tied}


def read_weights(path):
    """A safetensors file -> dict of float32 tensors."""
    load_file = packages()[0].load_file
    with naming(path):
        with open(path, "rb"):                            # its errors are the system's, with a name
            pass
        try:
            tensors = load_file(path)
        except Exception as error:
            raise InputError(f"is damaged or no safetensors file ({str(error)[:120]})") from None
    return float_tensors(tensors, path)


def read_vocabulary(tokenizer, path):
    """The words of a tokenizer.json, in the order of their ids; those that were added to it are among them."""
    try:
        vocab = tokenizer["model"]["vocab"]
        if isinstance(vocab, list):                       # unigram's, with scores
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        ids = {**vocab, **{added["content"]: added["id"] for added in tokenizer["added_tokens"]}}
        words = sorted(ids, key=ids.__getitem__)
        whole = [ids[word] for word in words] == list(range(len(words)))
        if tokenizer["model"]["type"] != "WordLevel":
            words = [word if word in (EOS, UNK) else token_of(word) for word in words]
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{path}: is not the tokenizer of such a model: its words are not numbered from 0 on")
    return words
