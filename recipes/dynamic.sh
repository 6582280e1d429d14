#!/usr/bin/env bash
# dynamic.sh ptb|wt2: dynamic evaluation (Krause et al. 2018) of the model that ptb.sh or wt2.sh fine-tuned; learning
# rate and decay are chosen on the validation text. Paper, test: Penn Treebank 51.1, WikiText-2 44.3. See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
case $corpus in
    ptb) recipe ptb data/penn 141 ;;
    wt2) recipe wt2 data/wikitext-2 1882 ;;
    *) echo "usage: dynamic.sh ptb|wt2 [flags of dynamiceval.py]" >&2; exit 2 ;;
esac
[ -e "$stem.finetuned.result.json" ] || { echo "recipes/$corpus.sh has not finished; it comes first" >&2; exit 1; }
adapt "${search[@]}" "$@"
