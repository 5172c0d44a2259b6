"""The page "Packing" in Airflow: recipes as MLflow records them, and a form that refreshes a packed dataset."""
