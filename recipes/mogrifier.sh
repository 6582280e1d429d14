#!/usr/bin/env bash
# The Mogrifier LSTM of Melis et al. 2020: two layers of 912 units with skip connections, 5 rounds of rank 84, tied.
# Paper, validation and test: 51.4 / 50.1 with Monte Carlo dropout: 200 samples, the factor on the dropout rates and the
# temperature searched on validation with those samples. Without it 52.1 / 51.0, from memory, not checked in the
# paper. The search reads validation with 200 samples for each of six factors. Adam does not mind that their loss is
# the sum over the 70 steps of a window and here it is the mean, so the rate is theirs; clipping is 10 / 70 = 0.143, and
# decay, the gradient of half the squared norm, 2.52e-4 / 70 = 3.6e-6. A turn is 200 steps; the weights are averaged after
# 50 turns without progress, after turn 800 at the latest. The embedding starts from uniform numbers up to sqrt(3 / 912),
# the rest as --weight-init fan-in says. See common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-mogrifier data/penn 141
train "${mogrifier[@]}" "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 200)}" --search-mc
