#!/usr/bin/env bash
# The Mogrifier LSTM of Melis et al. 2020 on WikiText-2: two layers with skip connections, 6 rounds of rank 48, and a
# mixture of two softmaxes, tied. Paper, validation and test: 57.3 / 55.1, with Monte Carlo dropout as in mogrifier.sh
# (from memory, not checked). The published configuration has a budget of 35M parameters and word vectors of 0.1993 times
# the layers' width: 272 and 1366 are the widest within it. The latent vectors are dropped like the output. Decay is
# 1.9e-4 / 70 = 2.71e-6, the embedding starts from uniform numbers up to sqrt(3 / 272); for the rest see mogrifier.sh
# and common.sh.
. "$(dirname "$0")/common.sh"
recipe wt2-mogrifier data/wikitext-2 1882
train "${mogrifier[@]}" --mogrifier-rounds 6 --mogrifier-rank 48 --emsize 272 --nhid 1366 --init-range 0.105 \
    --mixtures 2 --dropoutl 0.348 --dropouti 0.547 --dropouth 0.199 --dropoutr 0.221 --dropout 0.348 --wdecay 2.71e-6 \
    --lr 3.29e-3 "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 200)}" --search-mc
