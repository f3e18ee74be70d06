"""The names of the permissions that a run needs, in the words of each store."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rights:
    """The names of a store for the permissions that a run needs on its output.

    Attributes:
        write: Permission to create a file.
        list: Permission to list a folder.
        read: Permission to read a file.
        overwrite: Permission to replace a file.
        delete: Permission to delete a file.
    """

    write: str
    list: str
    read: str
    overwrite: str
    delete: str


S3_RIGHTS = Rights(
    write="s3:PutObject",
    list="s3:ListBucket",
    read="s3:GetObject",
    overwrite="s3:PutObject",
    delete="s3:DeleteObject",
)
GOOGLE_RIGHTS = Rights(
    write="storage.objects.create",
    list="storage.objects.list",
    read="storage.objects.get",
    overwrite="storage.objects.delete",
    delete="storage.objects.delete",
)
# On Azure, one role has all of them.
AZURE_RIGHTS = Rights(
    write="Storage Blob Data Contributor",
    list="Storage Blob Data Contributor",
    read="Storage Blob Data Contributor",
    overwrite="Storage Blob Data Contributor",
    delete="Storage Blob Data Contributor",
)
