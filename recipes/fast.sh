#!/usr/bin/env bash
# fast.sh ptb|wt2: 90 epochs of Adam in one cycle in place of 500 or 750 of NT-ASGD. See common.sh.
# A run published for WikiText-2 reached 68.7 / 65.5 with these settings; for Penn Treebank they are combined with the
# dropouts of ptb.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
cycle=(--optimizer adam --lr 5e-3 --beta2 0.99 --one-cycle 7.5 37.5 37.5 7.5 --momentum 0.8 0.7 --clip 0.12
       --alpha 3 --beta 1.5 --dropout 0.4 --dropoute 0.1 --wdrop 0.5)
case $corpus in
    ptb) recipe ptb-fast data/penn 141
         train "${cycle[@]}" --batch-size 40 --dropouti 0.4 --dropouth 0.25 "$@"
         point --lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000 ;;
    wt2) recipe wt2-fast data/wikitext-2 1882
         train "${cycle[@]}" --batch-size 100 --dropouti 0.6 --dropouth 0.2 "$@"
         point --lambdasm 0.1279 --theta 0.662 --window 3785 --bptt 2000 ;;
    *) echo "usage: fast.sh ptb|wt2 [flags of main.py]" >&2; exit 2 ;;
esac
