# What the recipes share. Each trains, fine-tunes and evaluates one model, under its own name. Paths are relative to the
# folder above this one. Environment variables:
#   SEED       of all random numbers (default: the published one)
#   SAVE_DIR   where models, states, logs and results go (default: runs; of SMOKE runs/smoke)
#   DATA       the corpus (default: data/penn or data/wikitext-2; ./getdata.sh gets them)
#   PYTHON     the interpreter (default: python)
#   SMOKE=1    a tiny model on the demo corpus, to check that everything works; not counted in tables
# Further arguments go to main.py and finetune.py; --device goes to every step that has a model. A recipe that was
# stopped, in whatever way, continues when it is run again; one that has finished tests its models once more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python} SAVE_DIR=${SAVE_DIR:-runs${SMOKE:+/smoke}}      # a run in earnest continues no small one

device=() before=
for word in "$@"; do
    case $before/$word in
        --device/*) device=(--device "$word") ;;
        */--device=*) device=("$word") ;;
    esac
    before=$word
done

# recipe NAME CORPUS SEED: what this is
recipe() {
    name=$1 data=${DATA:-$2} seed=${SEED:-$3}
    label=(--recipe "$name")
    small=()
    search=(--search --search-tokens 30000)
    if [ -n "${SMOKE:-}" ]; then
        data=${DATA:-demo}
        label=()
        search=(--search --search-tokens 300)
        small=(--emsize 16 --nhid 24 --nlayers 2 --batch-size 80 --epochs 2)
    fi
    reading=(${label[@]+"${label[@]}"} ${device[@]+"${device[@]}"})     # for the steps that read a model
    stem=$SAVE_DIR/$name-$seed
    mkdir -p "$SAVE_DIR"
}

# The Mogrifier LSTM as published; mogrifier.sh explains its numbers.
mogrifier=(--model Mogrifier --mogrifier-rounds 5 --mogrifier-rank 84 --gate capped --forget-bias 1 --skip-output
           --weight-init fan-in --emsize 912 --nhid 912 --nlayers 2 --init-range 0.0574 --batch-size 64 --bptt 70
           --no-variable-bptt --read-on --state-drop 0.01 --dropouti 0.729 --dropouth 0.291 --dropoutr 0.387
           --dropout 0.716 --per-step-dropout --dropoute 0 --wdrop 0 --alpha 0 --beta 0 --wdecay 3.6e-6
           --decay-with loss --clip 0.143 --optimizer averaged-adam --beta1 0 --beta2 0.999 --lr 2.3e-3 --turn-steps 200
           --epochs 1000 --patience 50 --average-from 800)

# train FLAGS...: main.py
train() {
    echo "== $name, seed $seed: training"
    "$PYTHON" main.py --data "$data" --seed "$seed" --save "$stem.pt" "$@" ${small[@]+"${small[@]}"} \
        ${label[@]+"${label[@]}"} --resume auto
    must_be_finished "$stem.result.json"
}

# finetune FLAGS...: finetune.py on what was trained
finetune() {
    echo "== $name, seed $seed: fine-tuning"
    "$PYTHON" finetune.py --data "$data" --seed "$seed" --save "$stem.pt" "$@" ${small[@]+"${small[@]}"} \
        ${label[@]+"${label[@]}"} --resume auto
    must_be_finished "$stem.finetuned.result.json"
}

# point FLAGS...: pointer.py on what was fine-tuned, or else trained
point() {
    echo "== $name, seed $seed: neural cache"
    "$PYTHON" pointer.py --data "$data" --save "$stem.pt" "$@" ${reading[@]+"${reading[@]}"} --resume auto
}

# adapt FLAGS...: dynamiceval.py on what was fine-tuned
adapt() {
    echo "== $name, seed $seed: dynamic evaluation"
    "$PYTHON" dynamiceval.py --data "$data" --save "$stem.pt" "$@" ${reading[@]+"${reading[@]}"} --resume auto
}

# score FLAGS...: evaluate.py on what was trained
score() {
    echo "== $name, seed $seed: evaluation"
    "$PYTHON" evaluate.py --data "$data" --save "$stem.pt" "$@" ${reading[@]+"${reading[@]}"}
}

# mix MODELS...: ensemble.py, weights chosen on validation
mix() {
    echo "== $name, seed $seed: ensemble"
    "$PYTHON" ensemble.py "$@" --data "$data" --weights valid ${reading[@]+"${reading[@]}"} --resume auto
}

# A run that --max-minutes ended is not an error, but the next step must not begin.
must_be_finished() {
    [ -e "$1" ] || { echo "== $name is not finished; run this again to go on"; exit 0; }
}
