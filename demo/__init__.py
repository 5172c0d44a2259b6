"""The whole job on one machine: an S3 server, MLflow, Airflow, real text, a packed dataset and a tiny BERT."""
