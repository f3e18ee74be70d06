"""What a part was made with: everything besides the images that its content depends on."""

import hashlib
import json
from dataclasses import dataclass, fields, replace

from job.errors import SettingsError

SCHEMA_VERSION = 2
PROJECTION = "hadamard 256"  # of the features, see `job.detect.projection`


@dataclass(frozen=True)
class Provenance:
    """Everything besides the images that the content of a part depends on.

    Attributes:
        config_sha256: Digest of the detector's configuration with its thresholds and sizes.
        weights_sha256: Digest of the weights file.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        probabilities: Source of the class probabilities; ``none`` without a detector.
        class_names: Names by class index.
        schema_version: Version of the columns of parts.
        embedder: Model that made the features (`job.detect.embedder`); empty for the detector, or if there are none.
        embedder_sha256: Digest of its weights and of how it runs.
        projection: How features were shortened; empty if they are whole, or if there are none.
    """

    config_sha256: str
    weights_sha256: str
    precision: str
    probabilities: str
    class_names: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    embedder: str = ""
    embedder_sha256: str = ""
    projection: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of all attributes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """All attributes as JSON, without those of an embedder or a projection if there is none, in a fixed order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.embedder:
            del values["embedder"], values["embedder_sha256"]
        if not self.projection:
            del values["projection"]
        return json.dumps(values, sort_keys=True)

    def matches(self, other: "Provenance") -> bool:
        """Whether parts of both can be used together: all is equal, except that classes may have other names."""
        same_count = len(self.class_names) == len(other.class_names)
        return same_count and replace(self, class_names=other.class_names) == other

    def with_names(self, class_names: tuple[str, ...]) -> "Provenance":
        """The same with other names of its classes; unchanged if these are more or fewer."""
        return replace(self, class_names=class_names) if len(class_names) == len(self.class_names) else self

    @classmethod
    def from_json(cls, text: str, name: str) -> "Provenance":
        """Parses the JSON that `to_json` returned.

        Args:
            text: The JSON.
            name: The part, in the form that is shown.

        Raises:
            SettingsError: If another version of the job wrote it, with another schema.
        """
        values = json.loads(text)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            age = "a newer" if isinstance(version, int) and version > SCHEMA_VERSION else "an older"
            raise SettingsError(
                f"{name} was written by {age} version of coralpick (schema {version}; this version has schema "
                f"{SCHEMA_VERSION}): use that version, or set CORAL_OUTPUT to a new folder."
            )
        return cls(**values | {"class_names": tuple(values["class_names"])})


def describe_difference(present: Provenance, expected: Provenance) -> str:
    """Describes the difference of two provenances, such as "different weights"."""
    words = {
        "config_sha256": "model configuration, thresholds or sizes",
        "weights_sha256": "weights",
        "schema_version": "version of the part files",
        "class_names": "number of classes",
        "embedder": "model of the embeddings",
        "embedder_sha256": "weights or precision of the embeddings' model",
        "projection": "CORAL_FULL_FEATURES",
    }
    names = [field.name for field in fields(expected)]
    present = present.with_names(expected.class_names)
    changed = [name for name in names if getattr(present, name) != getattr(expected, name)]
    return "different " + ", ".join(words.get(name, name.replace("_", " ")) for name in changed)
