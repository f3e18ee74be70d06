"""Shows the results of a run in LightlyStudio, on this machine; `make studio` runs it in a separate environment.

It reads the job's output files, and imports only modules of the job that do not need the job's packages.
"""

import logging
import os

# LightlyStudio reads this variable when it is imported, so it is set before any module of this package can import it.
# Without it, LightlyStudio reports every start and every import of images to its makers.
os.environ["LIGHTLY_STUDIO_ANALYTICS_ENABLED"] = "false"

# alembic logs every plug-in that it loads.
logging.getLogger("alembic").setLevel(logging.WARNING)
