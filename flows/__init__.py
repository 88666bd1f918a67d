"""The outside world: one thin Prefect flow a stage, MLflow tracking, the command line."""

from flows.environment import configure, use_project_interpreter

use_project_interpreter()
configure()
