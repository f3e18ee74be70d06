"""Everything that ends the job early, and the exit code that the scheduler sees.

    JobError                70  a fault of the job itself
    ├── SettingsError       64  a setting is wrong: retrying cannot help
    ├── TooManyFailedImages 65  more images than CORAL_MAX_FAILED could not be used
    ├── ServiceUnavailable  69  something the job needs from outside cannot be reached
    ├── TryAgain            75  a temporary condition: the same command may succeed later
    ├── AccessDenied        77  a permission is missing
    └── Stopped             143 SIGTERM: finished work is saved, the next start goes on from there

The codes follow sysexits.h, and 128 + 15 for SIGTERM. One unusable image is none of these: it is a row with a reason
(`job.images.ImageError`).
"""


class JobError(Exception):
    """A problem that ends the job; its text is shown to the user as it is."""

    exit_code = 70


class SettingsError(JobError):
    """One or more settings are wrong.

    Attributes:
        problems: One sentence for each problem, naming the variable, the bad value and the fix.
    """

    exit_code = 64

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class TooManyFailedImages(JobError):
    """The share of images that could not be used is above the limit."""

    exit_code = 65


class ServiceUnavailable(JobError):
    """A service or download that the job needs cannot be reached."""

    exit_code = 69


class TryAgain(JobError):
    """A temporary condition; nothing is lost and the same command may succeed later."""

    exit_code = 75


class AccessDenied(JobError):
    """The job may not read or write what it needs to."""

    exit_code = 77


class Stopped(JobError):
    """SIGTERM arrived and the finished work was saved."""

    exit_code = 143


def one_line(error: Exception) -> str:
    """The text of an error on one line, or its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """The beginning of an error's text, where libraries go on with advice and traces of their own."""
    return str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
