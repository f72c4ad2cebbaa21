"""The MLflow entry points: parse, call, log. `python -m pipelines.<entry point> --help` lists the options."""
