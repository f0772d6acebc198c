"""docs/kinds.md is what the tables of kinds say."""

from tools.kinds_docs import PAGE, render


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"
