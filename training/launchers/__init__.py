"""Where a training run is started: from a typed configuration to what an existing engine understands."""
