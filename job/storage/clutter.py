"""Files and folders that operating systems and storage devices add to folders, which are nobody's images."""

_FOLDERS = frozenset(
    name.lower()
    for name in (
        "lost+found",
        # macOS
        "__MACOSX", ".AppleDouble", ".DocumentRevisions-V100", ".fseventsd", ".Spotlight-V100", ".TemporaryItems",
        ".Trash", ".Trashes",
        # Windows
        "$RECYCLE.BIN", "RECYCLER", "System Volume Information",
        # Synology and QNAP: thumbnails, trash
        "@eaDir", "#recycle", ".@__thumb", "@Recycle",
        # Earlier states of the same files: NetApp and Isilon, ZFS, Btrfs, Synology, QNAP
        ".snapshot", "~snapshot", ".zfs", ".snapshots", "#snapshot", "@Recently-Snapshot",
    )
)  # fmt: skip
# The trash of a Linux desktop ends in the number of its user.
_FOLDER_PREFIX = ".trash-"
# macOS keeps the attributes of a.jpg in ._a.jpg on disks that cannot hold them, and in archives.
_FILE_PREFIX = "._"


def is_clutter_folder(name: str) -> bool:
    """Returns whether a folder of this name holds nothing but clutter."""
    return name.lower() in _FOLDERS or name.lower().startswith(_FOLDER_PREFIX)


def is_clutter(key: str) -> bool:
    """Returns whether a file is clutter, by its name or by that of a folder above it."""
    *folders, name = key.split("/")
    return name.startswith(_FILE_PREFIX) or any(map(is_clutter_folder, folders))
