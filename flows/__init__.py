"""The outside world: one thin Prefect flow a stage, MLflow tracking, the command line."""

import os

from flows.environment import configure, use_project_interpreter

use_project_interpreter()
configure()

from flows import servers  # (psutil is there only in the project's interpreter)

if servers.is_stage() and servers.is_recording():
    # It starts while the stage imports its libraries. Prefect's threads read the address when it is imported.
    os.environ["PREFECT_API_URL"] = servers.find_server().url
