"""Studies of options. The only home of Optuna."""
