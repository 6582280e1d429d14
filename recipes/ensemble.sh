#!/usr/bin/env bash
# ensemble.sh ptb|wt2: two or three models of other recipes, trained where that was not done, and mixed with the weights
# that are best on validation; then once more, each with dynamic evaluation. Penn Treebank: LSTM, GRU and QRNN, of which
# the last two alone gave a test perplexity of 52.80 where they were published; WikiText-2: LSTM and QRNN. See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
case $corpus in
    ptb) recipe ptb-ensemble data/penn 141
         members=("ptb ${SEED:-141}" "ptb_gru ${SEED:-141}" "qrnn ${SEED:-9001}") ;;
    wt2) recipe wt2-ensemble data/wikitext-2 1882
         members=("wt2 ${SEED:-1882}" "qrnn ${SEED:-4002}") ;;
    *) echo "usage: ensemble.sh ptb|wt2 [flags of main.py and finetune.py]" >&2; exit 2 ;;
esac
models=()
for member in "${members[@]}"; do
    read -r script its_seed <<< "$member"
    case $script in
        qrnn) its_name=$corpus-qrnn arguments=("$corpus") ;;
        *) its_name=${script/_/-} arguments=() ;;
    esac
    its_stem=$SAVE_DIR/$its_name-$its_seed
    [ -e "$its_stem.finetuned.result.json" ] || "recipes/$script.sh" ${arguments[@]+"${arguments[@]}"} "$@"
    must_be_finished "$its_stem.finetuned.result.json"
    models+=("$its_stem.finetuned.pt")
done
mix "${models[@]}"
mix "${models[@]/%/:dynamic}"
