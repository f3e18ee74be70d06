"""The table of export formats. To add a format, add its record here and its name to `job.settings.choices`."""

from job.exports import coco, cvat, fiftyone, label_studio, voc, yolo
from job.exports.format import Format
from job.settings import choices

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (coco, yolo, voc, label_studio, cvat, fiftyone)
}


def check_names() -> None:
    """Checks that the table and the setting CORAL_EXPORTS have the same names, in the same order.

    Raises:
        RuntimeError: If a name is missing on one side, or the order differs.
    """
    if tuple(FORMATS) != choices.EXPORT_FORMATS:
        raise RuntimeError(
            f"FORMATS in job/exports/table.py has {', '.join(FORMATS)}, but EXPORT_FORMATS in job/settings/choices.py "
            f"has {', '.join(choices.EXPORT_FORMATS)}: list the same names in both, in the same order."
        )


def markdown_table() -> str:
    """The manual's table of export formats."""
    lines = [
        "| `CORAL_EXPORTS` | files in `exports/` | for | use | images of unknown size |",
        "|---|---|---|---|---|",
    ]
    for entry in FORMATS.values():
        files = [f"`{path}`" for path in entry.files]
        if entry.image_files:
            files.append(f"`{entry.image_files.folder}<{entry.image_files.of}>{entry.image_files.suffix}`")
        lines.append(f"| `{entry.name}` | {', '.join(files)} | {entry.title} | {entry.summary} | {entry.unsized} |")
    return "\n".join(lines) + "\n"


check_names()
