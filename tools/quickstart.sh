#!/usr/bin/env bash
# From videos to an exported backbone, on a bare machine: python3 and pip are all it needs.
#
#     bash tools/quickstart.sh [VIDEO...]
#
# VIDEO: video files, folders of videos or folders of frames; training takes half an hour on 2 cores. With none,
# figures are rendered to learn from, and it takes some minutes.
# Started again it goes on where it was stopped; what is done is not done again. In the environment:
#     CMP_MM_VENV   virtual environment                (.venv)
#     CMP_MM_OUT    where everything is written         (work_dirs/quickstart-... , one for each set of videos)
#     CMP_MM_ITERS  iterations of training              (the config's, 3000 for videos; 600 for the figures,
#                   if no config is named)
#     CMP_MM_CONFIG which of configs/cmp/*resnet18*quick* to train, also relative to here
#                   (videos: k15or41, the one whose backbone gains; the figures: the one of 800 iterations)
# Another number of iterations or config is another run beside the first, with the same pairs; so is one after
# videos have come, gone or changed.
set -euo pipefail
SOURCES=()
for source in "$@"; do
    if [ ! -e "$source" ]; then
        echo "$source: there is no such file or folder" >&2
        exit 1
    fi
    SOURCES+=("$(realpath "$source")")
done
ITERS="${CMP_MM_ITERS:-}"
if [ -n "$ITERS" ] && { [[ ! "$ITERS" =~ ^[1-9][0-9]{0,6}$ ]] || [ "$ITERS" -le 20 ]; }; then
    echo "CMP_MM_ITERS is $ITERS; expected a whole number above 20, which the warm-up takes" >&2
    exit 1
fi
# Relative to where it is called, as VIDEO is.
[ -z "${CMP_MM_VENV:-}" ] || CMP_MM_VENV=$(realpath -m "$CMP_MM_VENV")
[ -z "${CMP_MM_OUT:-}" ] || CMP_MM_OUT=$(realpath -m "$CMP_MM_OUT")
[ ! -e "${CMP_MM_CONFIG:-}" ] || CMP_MM_CONFIG=$(realpath "$CMP_MM_CONFIG")
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
# Or relative to the repository, where this is now.
if [ -n "${CMP_MM_CONFIG:-}" ] && [ ! -f "$CMP_MM_CONFIG" ]; then
    echo "CMP_MM_CONFIG is $CMP_MM_CONFIG: there is no such file" >&2
    exit 1
fi
if [ ${#SOURCES[@]} -gt 0 ]; then
    NAME=$(printf '%s\n' "${SOURCES[@]}" | sha256sum | cut -c 1-8)
    # After 800 iterations a backbone hardly gains; after 3,000 this one does in more runs than with many arrows
    # for every image (tools/benchmarks/evidence).
    CONFIG=configs/cmp/cmp_resnet18-plain_quick-k15or41-1xb16-3k_pairs-96x96.py
else
    NAME=puppets
    CONFIG=configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py
    [ -n "${CMP_MM_CONFIG:-}" ] || ITERS="${ITERS:-600}"  # enough to see that all of it works
fi
OUT="${CMP_MM_OUT:-work_dirs/quickstart-$NAME}"
CONFIG="${CMP_MM_CONFIG:-$CONFIG}"

open_venv "${CMP_MM_VENV:-.venv}"
STAMP=$(stamp quickstart)
if installed "$STAMP"; then
    say "$VIRTUAL_ENV is up to date"
else
    say 'Installing the core: torch, mmengine, mmcv-lite, av (no compiler, no torchvision)'
    pins 'setuptools<82' wheel
    pins torch
    pins --no-build-isolation --editable '.[lite]'
    finish_install "$STAMP"
fi

if [ -z "$ITERS" ]; then
    ITERS=$(python - "$CONFIG" <<'PY'
import sys

from mmengine import Config

print(Config.fromfile(sys.argv[1]).train_cfg.max_iters)
PY
    )
fi

PAIRS="$OUT/pairs"
has_pairs() {
    [ -e "$PAIRS/$1.json" ] &&
        python -c 'import json, sys; sys.exit(not json.load(open(sys.argv[1]))["data_list"])' "$PAIRS/$1.json"
}
if [ ${#SOURCES[@]} -gt 0 ]; then
    say "Pairs of frames with optical flow, from ${#SOURCES[@]} given"
    # A little more than what the quick config trains at.
    # 1: a video was left out, which it has said, and the others will do; or none is left.
    python tools/dataset_converters/video2pairs.py "${SOURCES[@]}" --out "$PAIRS" --short-side 160 --val-share 0.2 ||
        [ $? -eq 1 ]
    if ! has_pairs train; then
        echo 'There is no pair to learn from' >&2
        exit 1
    fi
else
    say 'Puppets: rendered figures with exact flow (name VIDEOs to use your own)'
    python tools/dataset_converters/render_puppets.py --out "$PAIRS"
fi

HELD_OUT='held-out clips'
SPLIT=()
if ! has_pairs val; then
    say 'One video only: validation uses the frames it learns from, and says nothing about other videos'
    HELD_OUT='the clip it learnt from'
    SPLIT=(val_dataloader.dataset.ann_file=train.json test_dataloader.dataset.ann_file=train.json)
fi

# Another config or length is another run: resumed, it would keep the learning rates of the first.
RUN="$OUT/$(basename "$CONFIG" .py)-$ITERS"
# And so are other pairs, after a video has come, gone or changed; what was learnt from the old ones stays.
DIGEST=$(find "$PAIRS" -maxdepth 2 \( -name train.json -o -name val.json -o -path '*/records/*.json' \) | LC_ALL=C sort |
    xargs -d '\n' cat | sha256sum | cut -c 1-8)
if [ "$(cat "$RUN/pairs.sha256" 2>/dev/null || echo "$DIGEST")" != "$DIGEST" ]; then
    RUN="$RUN-$DIGEST"
    say "The pairs are others than before: a run of its own, $RUN"
fi
mkdir -p "$RUN"
echo "$DIGEST" > "$RUN/pairs.sha256"
TRAIN="$RUN/train"
CHECKPOINT="$TRAIN/iter_$ITERS.pth"
if [ -e "$CHECKPOINT" ]; then
    say "Training is done: $CHECKPOINT"
else
    say "Training, $ITERS iterations; validation beside interpolation of the same arrows"
    PRECISION=()
    if python - <<'PY'; then
import sys

import torch

from cmp_mm.engine import computes_in_bfloat16

sys.exit(torch.cuda.is_available() or not computes_in_bfloat16())
PY
        say 'In bfloat16, for which this CPU has instructions'
        PRECISION=(--amp)
    fi
    # The config's own intervals may be longer than all of a short training: what is killed starts from a checkpoint.
    EVERY=$(((ITERS + 3) / 4))
    python tools/train.py "$CONFIG" --work-dir "$TRAIN" --data-root "$PAIRS" --resume \
        ${PRECISION[@]+"${PRECISION[@]}"} --cfg-options train_cfg.max_iters="$ITERS" param_scheduler.1.end="$ITERS" \
        train_cfg.val_interval="$EVERY" default_hooks.checkpoint.interval="$EVERY" \
        default_hooks.visualization.interval="$EVERY" ${SPLIT[@]+"${SPLIT[@]}"}
fi

if [ "$RUN/metrics.json" -nt "$CHECKPOINT" ]; then
    say "Validation is done: $RUN/metrics.json"
else
    say "Validation on $HELD_OUT"
    python tools/test.py "$CONFIG" "$CHECKPOINT" --work-dir "$RUN/test" --data-root "$PAIRS" \
        --out "$RUN/metrics.json" --show-dir "$RUN/pictures" --show-number 8 \
        --cfg-options test_dataloader.batch_size=8 ${SPLIT[@]+"${SPLIT[@]}"}
fi

say 'Export of the backbone'
python tools/model_converters/extract_backbone.py "$CHECKPOINT" "$RUN/backbone.pth"

say 'Done'
python - "$RUN" "$PAIRS" "$HELD_OUT" "$CONFIG" "$CHECKPOINT" ${#SOURCES[@]} <<'PY'
import json
import sys

run, pairs, held_out, config, checkpoint, videos = sys.argv[1:]
metrics = json.load(open(f'{run}/metrics.json'))
print(f'On {held_out}, {metrics["guidance_points"]:.0f} arrows an image (smaller is better):')
print('    error, px   outliers, % (off by more than 3 px and 5 %)')
for name, label in (
    ('cmp', 'the network'),
    ('corrected', 'the network, with what it misses at the arrows added (--correction fade)'),
    ('nearest', 'the nearest arrow'),
    ('idw', 'arrows weighted by distance'),
    ('zero', 'no motion at all'),
):
    if f'{name}/epe' in metrics:
        print(f'    {metrics[f"{name}/epe"]:9.2f}   {metrics[f"{name}/fl"]:11.1f}   {label}')
more = ''
if not int(videos):
    more = """
  - your own videos, for a backbone to fine-tune, in half an hour:  bash tools/quickstart.sh VIDEO..."""
elif 'k15or41' in config:
    more = """
  - where arrows are to be followed, from photo to motion, two twins do it better; again with CMP_MM_CONFIG=
    configs/cmp/cmp_resnet18-plain_quick-1xb16-3k_pairs-96x96.py (many arrows for every image): scenes like these
    configs/cmp/cmp_resnet18-plain_quick-camera-1xb16-3k_pairs-96x96.py (as this one, shown moving cameras): other scenes"""
print(f'''
    {pairs}: what it learnt from; look at contact_sheet.png
    {run}:
        pictures/vis_data   image with arrows | true motion | predicted motion
        train               log, checkpoints
        backbone.pth        the pretrained backbone

Next (`source {sys.prefix}/bin/activate` for what is run by hand):{more}
  - arrows to motion (--correction fade meets them), photo to video, points to masks:  tools/demo/README.md
    with --checkpoint {checkpoint} --working-size 112
  - the backbone in a segmentation config, and whether it helps:  configs/downstream/mmseg/README.md
  - networks and schedules of the paper:  configs/cmp/README.md''')
PY
