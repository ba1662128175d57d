"""Studies: questions asked of many runs, each one YAML file in experiments/studies."""
