# Two images, from the repository's root:
#   docker build -f docker/airflow.Dockerfile --target airflow -t stowage-airflow:0.1.0 .
#   docker build -f docker/airflow.Dockerfile --target worker -t stowage-worker:0.1.0 .
# `airflow` is for Airflow's components, for packing and for MLflow's server; `worker` also trains on CPUs.
FROM python:3.11.14-slim-bookworm AS airflow

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GIT_PYTHON_REFRESH=quiet \
    NUMBA_CACHE_DIR=/tmp/numba \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/stowage/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/stowage/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=false

WORKDIR /opt/stowage
# Under the name by which a recipe's `producer` finds the digest of what was installed.
COPY docker/airflow.lock requirements.lock
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY packing packing
COPY training training
COPY dags dags
COPY plugins plugins
COPY docker/pools.json docker/mlflow-auth.ini docker/
COPY --chmod=755 docker/entrypoint.sh /entrypoint
# Group 0 may write what the user may, as the chart runs with that group.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /opt/airflow stowage \
    && install -d -o 50000 -g 0 -m 775 /opt/airflow /opt/airflow/logs

USER 50000:0
ENTRYPOINT ["/entrypoint"]
CMD ["python", "-m", "packing", "--help"]
# Of the scheduler, the DAG processor and the triggerer; Compose and the chart have one for each component.
HEALTHCHECK --interval=120s --timeout=60s --start-period=180s --retries=3 CMD ["airflow", "jobs", "check", "--local"]


FROM airflow AS worker

USER 0
COPY docker/worker.lock worker.lock
RUN pip install --no-cache-dir --no-deps --require-hashes -r worker.lock

USER 50000:0
HEALTHCHECK --interval=120s --timeout=60s --start-period=180s --retries=3 \
    CMD ["sh", "-c", "exec celery --app airflow.providers.celery.executors.celery_executor.app inspect ping --destination celery@$HOSTNAME"]
