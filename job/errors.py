"""The errors that end the job early, each with the exit code that a scheduler gets.

    JobError                70  an internal error: please report it
    ├── SettingsError       64  a setting is wrong: retrying cannot help
    │   └── LinkError           a symbolic link in the output is in the way
    ├── DamagedFileError    65  a file of the job's own in an output is damaged
    ├── TooManyFailedImages 65  more images than CORAL_MAX_FAILED could not be used
    ├── ServiceUnavailable  69  a service, a download, a disk or a GPU that the job needs cannot be used now
    ├── TryAgain            75  a temporary condition: the same command may succeed later
    └── AccessDenied        77  a permission is missing

    Stopped                 143 SIGTERM: finished work is saved, and the next start resumes from it

The codes follow sysexits.h, and 128 + 15 for SIGTERM. One unusable image does not end the job: it becomes a row with a
reason (`job.images.ImageError`).
"""

from job.names import escape

_MAX_CHARACTERS = 300


class JobError(Exception):
    """A problem that ends the job. Its text is shown to the user unchanged.

    An error of any subclass can be made from a text alone, as `check` does for the sum of what it found.
    """

    exit_code = 70


class SettingsError(JobError):
    """One or more settings are wrong.

    Attributes:
        problems: One sentence per problem, with the variable, the bad value and the fix.
    """

    exit_code = 64

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class LinkError(SettingsError):
    """A symbolic link in the output is in the way."""


class DamagedFileError(JobError):
    """A file of the job's own in an output is damaged.

    Attributes:
        folder: Place of the output, in the form that is shown; empty if no single file is meant.
        key: The file, below the output.
    """

    exit_code = 65
    folder = ""
    key = ""

    @classmethod
    def of(cls, folder: str, key: str, reason: object, advice: str) -> "DamagedFileError":
        """Makes the error of one file."""
        error = cls(f"{folder}/{key} is damaged ({reason}): {advice}.")
        error.folder, error.key = folder, key
        return error


class TooManyFailedImages(JobError):
    """The share of images that could not be used exceeds the limit."""

    exit_code = 65


class ServiceUnavailable(JobError):
    """A service, a download, a disk or a GPU that the job needs cannot be used now."""

    exit_code = 69


class TryAgain(JobError):
    """A temporary condition: nothing is lost, and the same command may succeed later."""

    exit_code = 75


class AccessDenied(JobError):
    """The permission to read or write something that the job needs is missing."""

    exit_code = 77


class Stopped(BaseException):
    """SIGTERM arrived and the finished work was saved.

    It is no `Exception`, as KeyboardInterrupt is none: the signal's handler raises it anywhere, also where any error
    would mean that a file is damaged.
    """

    exit_code = 143


def one_line(error: Exception) -> str:
    """Returns the text of an error on one line, or its class name if it has no text.

    Texts of libraries may hold a whole value of a file: they are cut, and their control characters are escaped.
    """
    text = " ".join(str(error).split())
    if isinstance(error, JobError):
        return text
    return escape(text[:_MAX_CHARACTERS]) + ("..." if len(text) > _MAX_CHARACTERS else "") or type(error).__name__


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, since some libraries append advice and traces."""
    return str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
