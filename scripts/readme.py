"""Writes the table of settings into the README, between its two markers."""

from pathlib import Path

from job.settings.resolve import markdown_table

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- settings: written by `make readme` -->\n", "<!-- end of settings -->\n"


def main() -> None:
    """Rewrites what is between the markers."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{markdown_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
