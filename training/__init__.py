"""Packed BERT pretraining that equals padded training; imports neither Airflow nor the solvers."""
