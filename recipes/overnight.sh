#!/usr/bin/env bash
# overnight.sh ptb|wt2: a model trained to the end on two CPU cores: 42 epochs (WikiText-2: 25) of Adam in one cycle, then
# what is made of it without training: temperature, Monte Carlo dropout, neural cache, dynamic evaluation, their settings
# chosen on the validation text. What was measured, and by which short runs the settings were chosen:
# results/cpu/overnight.md. See common.sh.
. "$(dirname "$0")/common.sh"
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000}          # threads spin briefly, then sleep: results/cpu/pilots.md
corpus=${1:-}
[ $# -gt 0 ] && shift
adam=(--optimizer adam --lr 4e-3 --beta2 0.99 --momentum 0.8 0.7 --clip 0.12 --alpha 2 --beta 1
      --batch-size 20 --dropout 0.35 --dropoute 0.1 --wdrop 0.5)
case $corpus in
    ptb) recipe ptb-overnight data/penn 141
         train "${adam[@]}" --one-cycle 5 15 19 3 --dropouti 0.35 --dropouth 0.2 "$@"
         cache=(--window 500 --theta 0.66 --lambdasm 0.1) ;;
    wt2) recipe wt2-overnight data/wikitext-2 1882
         train "${adam[@]}" --one-cycle 2 10 10 3 --dropouti 0.4 --dropouth 0.2 "$@"
         cache=(--window 3785 --theta 0.662 --lambdasm 0.1279) ;;
    *) echo "usage: overnight.sh ptb|wt2 [flags of main.py]" >&2; exit 2 ;;
esac
score --search-temperature
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 10)}"
point --search "${cache[@]:0:2}"
adapt "${search[@]}" --neural-cache "${cache[@]}"
