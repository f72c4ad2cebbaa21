"""Numbers from a predictions table: scores, intervals, comparisons. No torch, no MLflow."""
