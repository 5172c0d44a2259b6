# Training on NVIDIA GPUs, for `render --launcher kubernetes-gpu`; CUDA comes with the lock, the driver from the host.
#   docker build -f docker/gpu.Dockerfile -t stowage-gpu:0.1.0 .
#   docker run --rm --gpus all --shm-size 8g stowage-gpu:0.1.0 python -m training train --help
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONPATH=/opt/stowage \
    HOME=/tmp \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/stowage
COPY docker/gpu.lock requirements.lock
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

COPY LICENSE ./
COPY packing packing
COPY training training
# A worker's root file system is read-only, so modules are compiled now.
RUN python -m compileall -q packing training \
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /tmp stowage \
    && install -d -o 50000 -g 0 -m 775 /cache

USER 50000:0
CMD ["python", "-m", "training", "--help"]
# The driver answers and has a device: a GPU that has fallen off the bus makes this fail.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import ctypes, sys; sys.exit(ctypes.CDLL('libcuda.so.1').cuInit(0) != 0)"]
