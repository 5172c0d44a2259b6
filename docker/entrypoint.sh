#!/bin/sh
# The official Helm chart's probes call /entrypoint, which Airflow's own image has.
exec "$@"
