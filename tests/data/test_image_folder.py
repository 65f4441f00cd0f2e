"""Pictures come in as a viewer shows them, with their labels, and what is left out is named."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from guidestar.core.errors import UserError
from guidestar.data import image_folder
from guidestar.data.image_folder import labelled, printable, square

RAMP = np.linspace(0, 65535, 256).reshape(16, 16)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def save(path, colour=(9, 9, 9), size=(8, 8), **options):
    """Write a picture of one colour, in a folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def classes(folder, *names, each=1):
    for name in names:
        for number in range(each):
            save(folder / name / f"{number}.png")
    return folder


# Pixels.


def corners(turn):
    """Return the corners of a picture whose upper left quarter is white, seen after ``turn``."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8, :8] = 255
    pixels[:8, 8:] = 128
    seen = turn(pixels)
    return pixels, [int(seen[y, x]) for y in (2, -3) for x in (2, -3)]


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", [*TURNS, 0, 9])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_pictures_are_turned_as_exif_says(orientation, ending, tmp_path):
    pixels, expected = corners(TURNS.get(orientation, TURNS[1]))
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[image_folder.ORIENTATION] = orientation
    picture.save(tmp_path / f"a.{ending}", exif=exif)
    seen = square(tmp_path / f"a.{ending}", 16, 1)[..., 0]
    found = [seen[y, x] for y in (2, -3) for x in (2, -3)]
    np.testing.assert_allclose(found, expected, atol=8)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("a.png", RAMP.astype(np.uint16)),
        ("a.tif", RAMP.astype(np.uint16)),
        ("big.tif", RAMP.astype(">u2")),
        ("a.jp2", RAMP.astype(np.uint16)),
        ("float.tif", (RAMP / 65535).astype(np.float32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_and_fractions_are_scaled(file, values, channels, tmp_path):
    Image.fromarray(values).save(tmp_path / file)
    found = square(tmp_path / file, 16, channels)
    np.testing.assert_allclose(found, np.repeat(RAMP[..., None] / 257, channels, -1), atol=1.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP.astype(np.int32), "32 bits, of no known range"),
        (RAMP.astype(np.float32), "beyond 0 to 1"),
        (np.full((8, 8), np.nan, np.float32), "beyond 0 to 1"),
        ((RAMP / 65535 - 0.1).astype(np.float32), "beyond 0 to 1"),
    ],
)
def test_numbers_of_no_known_range_are_refused(values, message, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=message):
        square(tmp_path / "a.tif", 8, 1)


def palette(transparent):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, *RED])
    return picture, dict(transparency=1) if transparent else {}


@pytest.mark.parametrize(
    ("picture", "options", "expected"),
    [
        (Image.new("RGBA", (8, 8), (*RED, 0)), {}, WHITE),
        (Image.new("RGBA", (8, 8), (*RED, 255)), {}, RED),
        (Image.new("RGBA", (8, 8), (*RED, 51)), {}, (255, 204, 204)),
        (Image.new("LA", (8, 8), (0, 0)), {}, WHITE),
        (Image.new("RGB", (8, 8), RED), dict(transparency=RED), WHITE),
        (Image.new("L", (8, 8), 7), dict(transparency=7), WHITE),
        (Image.new("I;16", (8, 8), 7), dict(transparency=7), WHITE),
        (*palette(True), WHITE),
        (*palette(False), RED),
        (Image.new("1", (8, 8), 1), {}, WHITE),
    ],
    ids=range(10),
)
def test_transparent_parts_lie_on_white(picture, options, expected, tmp_path):
    picture.save(tmp_path / "a.png", **options)
    assert np.all(square(tmp_path / "a.png", 8, 3) == expected)
    grey = np.dot(expected, [0.299, 0.587, 0.114])
    np.testing.assert_allclose(square(tmp_path / "a.png", 8, 1), grey, atol=1)


@pytest.mark.parametrize(
    ("mode", "colour", "file", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), "a.tif", RED),
        ("CMYK", (0, 255, 255, 0), "a.jpg", RED),
        ("YCbCr", (76, 85, 255), "a.jpg", RED),
        ("LAB", (255, 128, 128), "a.tif", WHITE),
    ],
)
def test_other_spaces_of_colour_become_rgb(mode, colour, file, expected, tmp_path):
    Image.new(mode, (8, 8), colour).save(tmp_path / file)
    found = square(tmp_path / file, 8, 3)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (8, 8, 3)), atol=3)
    assert square(tmp_path / file, 8, 1).shape == (8, 8, 1)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(ending, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    lossless = dict(lossless=True) if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **lossless)
    said = []
    assert np.all(square(tmp_path / f"a.{ending}", 8, 3, said.append) == RED)
    assert said == ["several frames, the first one taken"]


def test_what_was_done_to_a_picture_is_said(tmp_path):
    exif = Image.Exif()
    exif[image_folder.ORIENTATION] = 6
    Image.new("RGBA", (8, 4), (*RED, 9)).save(tmp_path / "a.png", exif=exif)
    said = []
    square(tmp_path / "a.png", 8, 3, said.append)
    assert said == [
        "turned as EXIF says",
        "transparent, laid on white",
        "smaller than asked for, enlarged",
    ]


def test_long_pictures_are_cut_before_they_are_scaled(tmp_path):
    pixels = np.zeros((2, 3000), np.uint8)
    pixels[:, 1490:1510] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.all(square(tmp_path / "a.png", 8, 1) == 200)


def damaged(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "truncated"),
        (lambda path: path.write_bytes(b"no picture"), "no picture of a kind that is read"),
        (lambda path: path.write_bytes(b""), "no picture of a kind that is read"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "no picture of a kind"),
        (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 9), "."),
    ],
)
def test_what_cannot_be_read_is_one_kind_of_error(change, message, tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(random).save(tmp_path / "a.png")
    change(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        square(tmp_path / "a.png", 8, 3)


def test_a_huge_picture_is_refused_by_its_size(tmp_path, monkeypatch):
    save(tmp_path / "a.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(ValueError, match="more than 800 pixels"):
        square(tmp_path / "a.png", 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # a warning of Pillow's, no refusal
    assert square(tmp_path / "a.png", 8, 3).shape == (8, 8, 3)


# Which files, and of which class.


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    classes(tmp_path, "cat", "dog", ".thumbnails", "__MACOSX/cat", "@eaDir", "Thumbs")
    (tmp_path / "cat/._0.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "cat/Thumbs.db").write_bytes(b"\0")
    said = []
    files, names = labelled(tmp_path, said.append)
    assert names == ["cat", "dog"] and [file for file, _ in files] == ["cat/0.png", "dog/0.png"]
    assert "__MACOSX" in said[0] and "2 names that begin with a dot" in said[0]
    assert len(said) == 1


def test_a_hidden_folder_can_be_the_one_asked_for(tmp_path):
    assert labelled(classes(tmp_path / ".cache", "a", "b"))[1] == ["a", "b"]


def test_linked_folders_are_followed_and_taken_once(tmp_path):
    folder = classes(tmp_path / "set", "cat", "dog")
    classes(tmp_path / "elsewhere", "owls")
    (folder / "owl").symlink_to(tmp_path / "elsewhere/owls")
    (folder / "cat/loop").symlink_to(folder)
    (folder / "cat/dogs").symlink_to(folder / "dog")
    (folder / "dog/linked.png").symlink_to(folder / "cat/0.png")
    (folder / "dog/gone.png").symlink_to(folder / "nowhere.png")
    said = []
    files, names = labelled(folder, said.append)
    assert names == ["cat", "dog", "owl"]
    expected = [("cat/0.png", 0), ("dog/0.png", 1), ("dog/linked.png", 1), ("owl/0.png", 2)]
    assert files == expected
    assert said == ["passed over: 1 broken links or no files, 2 folders that are reached twice"]


def test_numbered_folders_keep_their_numbers(tmp_path):
    said = []
    files, names = labelled(classes(tmp_path, "0", "2", "10", "007"), said.append)
    assert all(int(file.split("/")[0]) == label for file, label in files)
    assert names == [str(number) for number in range(11)]
    assert "7 of the classes 0 to 10 have no pictures: 1, 3, 4, 5, 6, 8, 9" in said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: classes(f, "1", "01"), "01 and 1 of .* are both of class 1"),
        (lambda f: classes(f, "0", "20240101"), "20240101 is above"),
        (
            lambda f: save(classes(f, "a", "b") / "c.png"),
            "1 pictures .* beside the folders .*c",
        ),
        (lambda f: (f / "a").mkdir(), "holds no pictures"),
    ],
)
def test_folders_that_make_no_classes_are_refused(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        labelled(tmp_path)


def test_pictures_in_no_folder_are_of_one_class(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    assert labelled(tmp_path) == ([("a.png", 0), ("b.png", 0)], ["all"])


def test_unusual_endings_are_read_by_content_and_others_named(tmp_path):
    classes(tmp_path, "a")
    save(tmp_path / "a/x.gif")
    save(tmp_path / "a/v.avif")
    save(tmp_path / "a/w.JP2")
    for name in ("y.jfif", "z.HEIC", "no_ending"):
        (tmp_path / "a" / name).write_bytes((tmp_path / "a/0.png").read_bytes())
    (tmp_path / "a/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for name in ("a/notes.txt", "more.txt", "a/film.mp4", "a/vector.svg", "a/page.pdf", "a/p.eps"):
        (tmp_path / name).write_bytes(b"%PDF-1.4 or %!PS-Adobe-3.0 EPSF-3.0 or text")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/film.mp4").write_bytes(b"film")
    said = []
    files, names = labelled(tmp_path, said.append)
    kept = ["0.png", "no_ending", "v.avif", "w.JP2", "x.gif", "y.jfif", "z.HEIC"]
    assert [file for file, _ in files] == [f"a/{name}" for name in kept] and names == ["a"]
    assert said == [
        "8 other files are left out: 1 .eps, 1 .heic, 2 .mp4, 1 .pdf, 1 .svg, 2 .txt",
        "1 folders hold no pictures and are no classes: films",
    ]


# Labels in lists.

PNG, OTHER = "a/0.png", "a/1.png"


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("\ufefffile,label\r\na/0.png,0\r\na/1.png,1\r\n", [0, 1], "01"),
        ("file, label\na/0.png, 0\na/1.png , 1\n\n \n", [0, 1], "01"),
        ("filename,class\na/0.png,0\na/1.png,1", [0, 1], "01"),
        ("a/0.png,1\na/1.png,0", [1, 0], "01"),
        ("file;label\na/0.png;1.0\na/1.png;0,0\n", [1, 0], "01"),
        ("file\tlabel\na/0.png\t1\na/1.png\t0\n", [1, 0], "01"),
        ("a/0.png,1,\na/1.png,0,\n,,\n", [1, 0], "01"),
        ('"a/0.png","the cat, Tom"\n"a/1.png",dog', [1, 0], ["dog", "the cat, Tom"]),
        ("a\\0.png,1\n./a/1.png,0", [1, 0], "01"),
        ("{folder}/a/0.png,1\na/1.png,0", [1, 0], "01"),
        ("a/0.png,1\na/1.png,0\na/1.png,0", [1, 0], "01"),
        ("a/0.png,2\na/1.png,0", [2, 0], "012"),
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(text, labels, names, tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "labels.csv").write_text(text.format(folder=tmp_path), encoding="utf-8", newline="")
    assert labelled(tmp_path) == (list(zip([PNG, OTHER], labels, strict=True)), list(names))


def test_tables_of_other_encodings_are_read(tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "labels.csv").write_text("a/0.png\tkatze\na/1.png\teule\n", encoding="utf-16")
    assert labelled(tmp_path)[1] == ["eule", "katze"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/0.png,0\na/1.png,-1", r"labels\.csv, line 2: the label is -1"),
        ("a/0.png,0\n\na/1.png,0.5", r"line 3: the label is 0\.5"),
        ("a/0.png,0\na/1.png,", "line 2: the label is empty"),
        ("a/0.png,0\na/1.png,nan", "line 2: the label is nan"),
        ("a/0.png,0\na/1.png,1e9", "line 2: the label 1000000000 is above"),
        ("a/0.png,0\na/1.png,cat", "line 2: 'cat' is a name and other labels are numbers"),
        ("a/0.png,0\na/1.png", "line 2: 'a/1.png' is no file and label: give two cells"),
        ("a/0.png,0\na/1.png,1,2", "line 2: .* give two cells"),
        ("a/0.png,0\na/1.png,1\na/0.png,1", "line 3: a/0.png is 1 here and 0 in .*line 1"),
        ("file,label\na/0.png,0", "1 pictures .* have no label, a/1.png among them"),
        (
            "a/0.png,0\na/1.png,1\na/2.png,1",
            r"labels of 1 .*, a/2.png \(labels.csv, line 3",
        ),
        ("/x/a/0.png,0\na/1.png,1", "labels of 1 pictures that are not in it, /x/a/0.png"),
        ("../a/0.png,0\na/1.png,1", "labels of 1 pictures"),
        ("", "is empty"),
        ("file,label\n", "has a header alone"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_line(text, message, tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        labelled(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([[PNG, 1], [OTHER, 0]], [1, 0], "01"),
        ([[PNG, 1.0], [OTHER, 0.0]], [1, 0], "01"),
        ({PNG: 1, OTHER: 0}, [1, 0], "01"),
        ([[PNG, "owl"], [OTHER, "cat"]], [1, 0], ["cat", "owl"]),
        (None, [0, 0], ["all"]),
    ],
)
def test_listed_labels_are_read(labels, expected, names, tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert labelled(tmp_path) == (list(zip([PNG, OTHER], expected, strict=True)), list(names))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [[PNG, 0], [OTHER, -1]]}, r"dataset\.json, entry 1: the label is -1"),
        ({"labels": [[PNG, 0], [OTHER, None]]}, "entry 1: the label is null"),
        ({"labels": [[PNG, 0], [OTHER, float("inf")]]}, "entry 1: the label is inf"),
        ({"labels": [[PNG, 0], [OTHER, 0.5]]}, r"entry 1: the label is 0\.5"),
        ({"labels": [[PNG, 0], [OTHER, True]]}, "entry 1: the label is true"),
        ({"labels": [[PNG, 0], [OTHER, [0, 1]]]}, r"entry 1: the label is \[0, 1\]"),
        ({"labels": [[PNG, 0], [OTHER, "cat"]]}, "'cat' is a name"),
        ({"labels": [[PNG, 0], [PNG, 1], [OTHER, 0]]}, "entry 1: a/0.png is 1 here and 0 in"),
        ({"labels": [[PNG, 0], OTHER]}, "cannot be read .*entry 1 is"),
        ({"labels": [[PNG, 0], [1, 1]]}, "cannot be read .*entry 1 is of 1"),
        ({"labels": []}, "lists no labels; say null"),
        ({"labels": 3}, "cannot be read"),
        ({"classes": []}, "no entry named labels"),
        ([], "cannot be read"),
    ],
)
def test_listed_labels_that_do_not_fit_are_refused_by_entry(content, message, tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        labelled(tmp_path)


def test_folders_of_a_set_without_labels_are_no_classes(tmp_path):
    classes(tmp_path, "00000", "00001")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    said = []
    assert labelled(tmp_path, said.append)[1] == ["all"]
    assert said == ["dataset.json says that there are no labels: all pictures are of one class"]


def test_the_list_that_counts_is_named(tmp_path):
    classes(tmp_path, "a", each=2)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[PNG, 1], [OTHER, 0]]}))
    (tmp_path / "labels.csv").write_text("a/0.png,0")
    said = []
    labelled(tmp_path, said.append)
    assert said == ["labels are those of dataset.json: labels.csv is not read"]


def test_names_are_printed_in_one_bounded_line_whatever_their_bytes(tmp_path):
    name = os.fsdecode(b"\x83e\x83X.png")
    assert printable(name) == "\\x83e\\x83X.png"
    assert printable("a\nb\x1b[2J.png") == "a\\nb\\x1b[2J.png"
    assert printable("x" * 500 + ".png").endswith("xxx.png") and len(printable("x" * 500)) <= 121
    save(tmp_path / os.fsdecode(b"\x83e") / "0.png")
    save(tmp_path / "b/0.png")
    files, names = labelled(tmp_path)
    assert sorted(names) == ["\\x83e", "b"] and len(files) == 2
    (tmp_path / "labels.csv").write_bytes(b"\x83e/0.png,1\nb/0.png,0\n")
    assert dict(labelled(tmp_path)[0]) == {os.fsdecode(b"\x83e/0.png"): 1, "b/0.png": 0}
