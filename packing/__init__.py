"""Packing of variable-length BERT pretraining data: scan, solve, plan, write, verify. Never imports Airflow."""
