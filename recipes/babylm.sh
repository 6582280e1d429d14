#!/usr/bin/env bash
# babylm.sh FOLDER: a submission to BabyLM from raw text, a folder of .txt or .train files of its 10 or 100 million words:
# byte pair encoding, 10 epochs of Adam in one cycle, the model after 1M, 2M … words, each as a folder for transformers,
# and the prediction files of the zero-shot tasks. The settings are not tuned. See common.sh, and besides:
#   VOCAB      tokens that the byte pair encoding learns (default: 8000)
#   EVAL       BabyLM's evaluation_data, with fast_eval and full_eval; without it nothing is predicted
# With the name NAME-SEED: NAME-SEED/main and NAME-SEED/chck_1M … are the folders, which recipes/babylm_push.sh uploads,
# results/NAME-SEED/ has the predictions as BabyLM's collate_preds.sh reads them. SMOKE=1 reads docs/ and predicts a few
# made-up items if there is no FOLDER and no EVAL.
. "$(dirname "$0")/common.sh"
folder=${SMOKE:+docs}
case ${1:-} in -* | "") ;; *) folder=$1; shift ;; esac
[ -n "$folder" ] || { echo "usage: babylm.sh FOLDER [flags of main.py]" >&2; exit 2; }
recipe babylm "" 1111
data=$stem.text evaluation=${EVAL:-} vocab=${VOCAB:-8000} held_out=0.002
words=({1..9}M {10..90..10}M {100..1000..100}M)

if [ -n "${SMOKE:-}" ]; then
    vocab=${VOCAB:-400} held_out=0.05 words=({5..45..10}K)
    if [ -z "$evaluation" ]; then
        evaluation=$stem.eval
        mkdir -p "$evaluation"/{fast,full}_eval/{blimp_smoke,reading}
        for data_folder in "$evaluation"/{fast,full}_eval; do
            echo '{"sentence_good": "The text is read.", "sentence_bad": "The text are read."}' \
                > "$data_folder/blimp_smoke/agreement.jsonl"
            printf '%s\n' item,word,prev_item,prev_word 'The text is,read.,The text,is' \
                > "$data_folder/reading/reading_data.csv"
        done
    fi
fi

if [ ! -e "$data" ]; then
    echo "== $name, seed $seed: preparing $folder"
    "$PYTHON" prepare.py text "$folder" --out "$data" --tokenizer bpe --vocab-size "$vocab" --valid "$held_out" \
        --test "$held_out"
fi
train --emsize 400 --nhid 1150 --nlayers 3 --batch-size 40 --dropout 0.1 --dropouti 0.1 --dropouth 0.1 --dropoute 0 \
    --wdrop 0.1 --optimizer adam --lr 4e-3 --beta2 0.99 --one-cycle 1 4 4 1 --momentum 0.8 0.7 --clip 0.12 \
    --save-at-words "${words[@]}" "$@"

# hand_in REVISION MODEL DATA...: a folder for transformers, and predictions
hand_in() {
    echo "== $name, seed $seed: $1"
    "$PYTHON" export.py --checkpoint "$2" --to hf "$stem/$1" --prepend-eos
    [ $# -eq 2 ] || "$PYTHON" evaluate.py --checkpoint "$2" --precision fp32 ${device[@]+"${device[@]}"} --babylm \
        "${@:3}" --predictions "$SAVE_DIR/results/$(basename "$stem")/$1"
}

fast=() full=()
if [ -n "$evaluation" ]; then
    fast=("$evaluation/fast_eval") full=("$evaluation/full_eval")
    [ ! -e "$evaluation/full_eval/aoa" ] || fast+=("$evaluation/full_eval/aoa")
fi
for after in "${words[@]}"; do
    [ ! -e "$stem.$after.pt" ] || hand_in "chck_$after" "$stem.$after.pt" ${fast[@]+"${fast[@]}"}
done
hand_in main "$stem.pt" ${full[@]+"${full[@]}"}
echo "== $name, seed $seed: folders in $stem${evaluation:+, predictions in $SAVE_DIR/results}"
