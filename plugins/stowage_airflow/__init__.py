"""What the DAGs need of Airflow: settings, connections as adapters, stages as task bodies, the training operator."""
