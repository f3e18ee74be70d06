"""The results of a run in LightlyStudio, on this machine; `make studio` runs it in an environment of its own.

It reads the files that the job writes, and imports nothing of the job that needs the job's packages.
"""

import logging
import os

# LightlyStudio reads it when it is imported, so it is set before any module of this package can do that. Otherwise it
# reports every start and every import of images to its makers.
os.environ["LIGHTLY_STUDIO_ANALYTICS_ENABLED"] = "false"

# It says which of its plug-ins it loads.
logging.getLogger("alembic").setLevel(logging.WARNING)
