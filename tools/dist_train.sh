#!/usr/bin/env bash
# Train with several processes on one machine or on several:
#   bash tools/dist_train.sh CONFIG PROCESSES [train.py options]
# One process per GPU; on a machine without GPUs the processes share its CPUs.
# The processes meet at PORT, on one machine by default at any that is free.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT (29500), equal on all but NODE_RANK.
set -euo pipefail
if [ $# -lt 2 ] || [[ ! "$2" =~ ^([1-9][0-9]*|auto|gpu|cpu)$ ]]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [train.py options]" >&2
    exit 2
fi
CONFIG=$1
PROCESSES=$2
TOOLS=$(cd "$(dirname "$0")" && pwd)

PYTHON=${PYTHON:-python}
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    PORT=$("$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
# Seconds for the step that is saved when the training is told to stop; after them torchrun kills. (That of
# torch 2.11 has 30, whatever is asked of it.)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-90}

PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$PROCESSES" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
