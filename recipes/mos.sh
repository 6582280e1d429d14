#!/usr/bin/env bash
# mos.sh ptb|wt2: a mixture of 15 softmaxes (Yang et al. 2018). Paper, fine-tuned, test: Penn Treebank 54.4, WikiText-2
# 61.5. --small_batch_size 5 of the published command for WikiText-2 reads a batch in three parts, each with masks of
# its own, to save memory; here a batch has one set of masks.
# See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
flags=(--mixtures 15 --dropoutl 0.29 --epochs 1000)
case $corpus in
    ptb) recipe ptb-mos data/penn 28
         flags+=(--emsize 280 --nhid 960 --nhidlast 620 --batch-size 12 --dropouti 0.4 --dropouth 0.225
                 --max-seq-len-delta 40)
         rates=(20 25) ;;
    wt2) recipe wt2-mos data/wikitext-2 1882
         flags+=(--emsize 300 --nhid 1150 --nhidlast 650 --batch-size 15 --dropouti 0.55 --dropouth 0.2
                 --max-seq-len-delta 20)
         rates=(15 20) ;;
    *) echo "usage: mos.sh ptb|wt2 [flags of main.py and finetune.py]" >&2; exit 2 ;;
esac
[ -z "${SMOKE:-}" ] || small+=(--nhidlast 20 --mixtures 2)
train "${flags[@]}" --lr "${rates[0]}" "$@"
finetune "${flags[@]}" --lr "${rates[1]}" "$@"
