#!/usr/bin/env bash
# lstm_cache.sh ptb|wt2: the plain LSTM with a neural cache of Grave et al. 2017: one layer of 1024 units, Adagrad.
# Paper, test: Penn Treebank 82.3, with the cache 72.1; WikiText-2 99.3, with the cache 68.9. See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
case $corpus in
    ptb) recipe ptb-lstm-cache data/penn 141
         window=500 ;;
    wt2) recipe wt2-lstm-cache data/wikitext-2 1882
         window=2000 ;;
    *) echo "usage: lstm_cache.sh ptb|wt2 [flags of main.py]" >&2; exit 2 ;;
esac
train --batch-size 20 --emsize 1024 --nhid 1024 --nlayers 1 --no-tied --bptt 30 --no-variable-bptt \
    --dropoute 0 --dropouti 0.65 --dropouth 0 --dropout 0.65 --wdrop 0 --alpha 0 --beta 0 --wdecay 0 \
    --optimizer adagrad --lr 0.2 --clip 0.1 --epochs 60 --init-range 0.05 "$@"
point --window "$window" --search
