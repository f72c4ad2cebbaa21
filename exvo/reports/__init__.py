"""Words and pictures about numbers. No torch, no MLflow."""
