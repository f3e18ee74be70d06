"""coralpick: finds the images of an unlabelled pool whose labels will help a detector most."""

import os

__version__ = "0.1.0"

# Without this, importing lightly asks its server for the newest version.
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")
