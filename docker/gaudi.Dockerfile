# Training on Gaudi and Gaudi 2, for `render --launcher kubernetes-gaudi`.
#   docker build -f docker/gaudi.Dockerfile -t stowage-gaudi:0.1.0 .
# The base has Habana's software 1.14.0, the last with TensorFlow, TensorFlow 2.15.0 and Python 3.10. The lock adds what
# it lacks and leaves TensorFlow and NumPy as Habana built against them. The release is in the image's path; the tag is the
# one that Habana documents.
# hadolint ignore=DL3007
FROM vault.habana.ai/gaudi-docker/1.14.0/ubuntu22.04/habanalabs/tensorflow-installer-tf-cpu-2.15.0:latest

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONPATH=/opt/stowage:/usr/lib/habanalabs \
    HOME=/tmp \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    TF_RECIPE_CACHE_PATH=/cache/recipes \
    HABANA_LOGS=/tmp/habana_logs

WORKDIR /opt/stowage
COPY docker/gaudi.lock requirements.lock
# The launcher's command begins with `python`, which Ubuntu does not have.
RUN python3 -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
    && ln -sf "$(command -v python3)" /usr/local/bin/python \
    && python -c "import sys; assert sys.version_info[:2] == (3, 10), sys.version" \
    && python -c "from importlib.metadata import version; assert version('tensorflow-cpu') == '2.15.0'"

COPY LICENSE ./
COPY packing packing
COPY training training
# A worker's root file system is read-only, so modules are compiled now.
RUN python -m compileall -q packing training \
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /tmp stowage \
    && install -d -o 50000 -g 0 -m 775 /cache

USER 50000:0
CMD ["python", "-m", "training", "--help"]
# A card is there, under the name that old or new drivers give it.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import glob, sys; sys.exit(not (glob.glob('/dev/hl[0-9]*') or glob.glob('/dev/accel/accel[0-9]*')))"]
