"""URLs that may hold a secret."""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# Parameters of signed URLs of the large stores; they change from day to day while the file stays the same.
_SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires|token"
    r"|s[vertpi]|sig|sk[a-z]{1,3}|spr",  # the last line: Azure's
    re.IGNORECASE,
)


# The query of a signed URL; a URI of a bucket has none.
SIGNED = re.compile(r"\?([^?]*&)?(x-(amz|goog)-signature|signature|sig)=.*", re.IGNORECASE)


def redacted(text: str) -> str:
    """A URL without user, password, query and fragment; a URI of a bucket without the first two; others as they are."""
    if "://" not in text:
        return text
    if not text.lower().startswith("http"):  # in the name of an object, ? and # are letters as any other
        text = text[: signed.start()] if (signed := SIGNED.search(text)) else text
        return re.sub(r"://[^/]*@", "://", text)
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def identity(url: str) -> str:
    """What names the file behind a URL: without credentials, but with a query that is no signature."""
    query = [(name, value) for name, value in parse_qsl(urlsplit(url).query) if not _SIGNATURE.fullmatch(name)]
    return redacted(url) + ("?" + urlencode(query) if query else "")
