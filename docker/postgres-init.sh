#!/bin/sh
# Roles and databases of Airflow and MLflow; PostgreSQL's image runs this once, on an empty data folder.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username postgres \
    --set airflow_password="$AIRFLOW_PASSWORD" --set mlflow_password="$MLFLOW_PASSWORD" <<'SQL'
CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
SQL
