"""Configs of pictures of one's own: they fit the data set that they are given."""

import pytest
from PIL import Image
from places import ROOT

from guidestar.commands import prepare
from guidestar.commands.config import hyper
from guidestar.configs import common, pictures, pictures_classifier
from guidestar.core.errors import UserError
from guidestar.models.builders import build


def prepared(folder, classes, size):
    """Prepare two pictures a class, and return the data set's path."""
    for name in classes:
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (20, 20), (9 * number, 0, 0)).save(
                folder / "pictures" / name / f"{number}.png"
            )
    config = common.base()
    config.prepare.update(source=str(folder / "pictures"), size=size)
    (folder / "set").mkdir()
    prepare.run(config, folder / "set")
    return str(folder / "set")


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (28, 4), (36, 6)])
def test_they_have_the_size_and_the_classes_of_the_data(tmp_path, size, patch):
    path = prepared(tmp_path, ("cats", "dogs"), size)
    config = pictures.get_config(path)
    assert config.model.patch_size == patch and config.data.name == path
    for one in (config, pictures_classifier.get_config(path)):
        spec = build(one.model.to_dict())
        assert spec.shape == (size, size, 3) and spec.num_classes == 2
    assert len(hyper.defined(str(ROOT / "configs" / "pictures.py"))) == 12


def test_pictures_of_one_class_are_refused(tmp_path):
    with pytest.raises(UserError, match="in 1 class.*a folder for each class"):
        pictures.get_config(prepared(tmp_path, ("cats",), 8))
    with pytest.raises(UserError, match="--mode=prepare makes one"):
        pictures.get_config(str(tmp_path / "pictures"))
