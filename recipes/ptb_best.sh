#!/usr/bin/env bash
# The best that this code should reach on Penn Treebank with 24M parameters: the Mogrifier LSTM of mogrifier.sh, then
# dynamic evaluation. Why it should be: of the systems here that were published with one model of this size, the Mogrifier
# is the best (test 50.1; with dynamic evaluation 44.8), before mixtures of softmaxes (54.4) and the LSTM with skip
# connections (58.3). See common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-best data/penn 141
[ -z "${SMOKE:-}" ] || search=(--lr 1e-5)      # the rate that 300 tokens choose makes this model diverge later on
train "${mogrifier[@]}" "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 200)}" --search-mc
adapt "${search[@]}"
