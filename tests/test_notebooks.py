"""The notebooks of the documentation run from the first cell to the last."""

import pytest
from places import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.longer
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, tmp_path):
    # Of the extra `dev`; imported here, since what runs every day needs neither.
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    drawn = [one for one in outputs if "image/png" in one.get("data", {})]
    assert len(drawn) == 2 and not any(one.get("name") == "stderr" for one in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(path):
    text = path.read_text()
    assert '"outputs": []' in text and '"output_type"' not in text and len(text) < 20_000


def test_every_notebook_is_on_the_page_of_notebooks():
    page = (ROOT / "docs" / "notebooks.md").read_text()
    assert NOTEBOOKS and all(f"(notebooks/{path.name})" in page for path in NOTEBOOKS)
