"""A folder of image files, good and bad ones."""

import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import tiny
from PIL import Image

from ladder_vae.data import Folder
from ladder_vae.data import folder as folder_module
from ladder_vae.maths import LogisticMixture
from ladder_vae.system.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 6, 6), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
MIXTURE = LogisticMixture(2)


def save(path, pixels, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **settings)


@pytest.fixture
def images(tmp_path):
    """40 gray images in two subfolders, written in no order."""
    for number in RNG.permutation(40):
        save(tmp_path / "images" / ("cat" if number % 2 else "bird") / f"{number:02d}.png", GRAY[number])
    return tmp_path / "images"


def opened(path, size=6, likelihood=None, **settings):
    """The data set, loaded."""
    kind = "dynamic" if likelihood else "threshold"
    data = Folder(str(path), size=size, binarization=kind, likelihood=likelihood, **settings)
    data.setup()
    return data


def as_bytes(tensor):
    return [bytes(image.contiguous().numpy()) for image in tensor]


def splits_of(path, **settings):
    """The numbers of the images of each split."""
    data = opened(path, **settings)
    cut = len(data.source.train) - data.val_size
    found = {"train": data.source.train[:cut], "val": data.source.train[cut:], "test": data.source.test}
    return {
        name: [as_bytes(torch.from_numpy(GRAY)).index(x) for x in as_bytes(of)] for name, of in found.items()
    }


def test_subfolders_are_labels_and_files_are_sorted(images):
    found, data = splits_of(images), opened(images)
    assert sorted([*found["train"], *found["val"], *found["test"]]) == list(range(40))
    assert all(found.values())
    for name, numbers in found.items():
        assert data.labels(name).tolist() == [number % 2 for number in numbers]
        assert numbers == sorted(numbers, key=lambda number: (number % 2, number))


def test_files_that_come_or_go_move_no_other(images):
    before = splits_of(images)
    (images / "cat" / "07.png").rename(images / "cat" / "07.jpeg.png")
    for number in (0, 1, 2):
        (images / "bird" / f"{2 * number:02d}.png").unlink()
    for number in range(8):
        save(images / "ant" / f"{number}.png", GRAY[0])
    after = splits_of(images)
    kept = set(range(6, 40)) - {7} | {1, 3, 5}
    for name in before:
        assert [n for n in before[name] if n in kept] == [n for n in after[name] if n in kept]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are letters")
def test_a_name_that_is_no_utf_8(images):
    save(images / "cat" / os.fsdecode(b"caf\xe9.png"), GRAY[0])
    data = opened(images)
    assert len(data.source.train) + len(data.source.test) == 41


def test_numbers_of_validation_images(images):
    own = splits_of(images)
    assert splits_of(images, val_size=0)["train"] == own["train"] + own["val"]
    assert splits_of(images, val_size=4)["val"] == (own["train"] + own["val"])[-4:]
    assert opened(images).fingerprint == opened(images, val_size=4).fingerprint
    assert splits_of(images, val_share=0)["val"] == []


@pytest.mark.parametrize("val", [True, False])
def test_folders_that_are_splits(tmp_path, val):
    for number, image in enumerate(GRAY):
        split = "test" if number < 9 else "val" if number < 15 and val else "train"
        save(tmp_path / split / "ab"[number % 2] / f"{number:02d}.png", image)
    found, data = splits_of(tmp_path), opened(tmp_path)
    assert sorted(found["test"]) == list(range(9))
    assert sorted(found["val"]) == list(range(9, 15)) if val else 0 < len(found["val"]) < 12
    assert data.labels("train").tolist() == [number % 2 for number in found["train"]]


@pytest.mark.parametrize("where", ["", "cat/"])
def test_one_class_is_no_label(tmp_path, where):
    for number, image in enumerate(GRAY):
        save(tmp_path / f"{where}{number}.png", image)
    data = opened(tmp_path)
    assert data.labels("train") is data.labels("test") is None


def test_gray_and_color(tmp_path, images):
    assert opened(images).image_shape == (1, 6, 6)
    assert opened(images, color=True, likelihood=MIXTURE).image_shape == (3, 6, 6)
    save(images / "cat" / "40.png", COLOR[0])
    with pytest.raises(
        UserError, match="data=Folder: pixels of 3 channels are not binary; set likelihood=logist"
    ):
        opened(images)
    data = opened(images, likelihood=MIXTURE)
    every = torch.cat([data.source.train, data.source.test])
    assert sum(not bool((x[0] == x[1]).all()) for x in every) == 1
    assert opened(images, color=False).image_shape == (1, 6, 6)
    with pytest.raises(UserError, match="set likelihood=logistic_mixture"):
        Folder(str(tmp_path / "nowhere"), color=True)


def only_one(path, size, **settings):
    """The image of a folder of copies of one file."""
    file = next(path.iterdir())
    for number in range(30):
        shutil.copy(file, path / f"{number}{file.suffix}")
    return opened(path, size=size, likelihood=MIXTURE, **settings).source.train[0]


def test_images_are_cut_to_a_square_and_resized(tmp_path):
    image = RNG.integers(0, 256, (6, 10), dtype=np.uint8)
    save(tmp_path / "a/a.png", image)
    assert np.array_equal(only_one(tmp_path / "a", 6)[0], image[:, 2:8])
    save(tmp_path / "b/a.png", image)
    assert np.array_equal(only_one(tmp_path / "b", None)[0], image)
    save(tmp_path / "c/a.png", np.full((20, 30), 77, np.uint8))
    assert only_one(tmp_path / "c", 4).unique().tolist() == [77]


def test_what_is_enlarged_is_said(images, capsys):
    opened(images, size=8)
    assert "40 of 40 images are smaller than data.size=8; they are enlarged" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "png"])
def test_kinds_of_files(tmp_path, suffix):
    image = np.full((6, 6, 3), (200, 100, 50), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image[0] = 0
    save(tmp_path / "x" / f"a.{suffix}", image, exif=exif, **({} if suffix == "png" else {"quality": 100}))
    found = only_one(tmp_path / "x", None).int()
    assert found[:, :, :5].float().mean((1, 2)).tolist() == pytest.approx([200, 100, 50], abs=30)
    assert found[:, :, 5].max() < 60  # the first row is the last column


def transparent(opacity):
    return np.concatenate([COLOR[0], np.full((6, 6, 1), opacity, np.uint8)], -1)


def palette():
    return Image.fromarray(COLOR[0]).quantize(250)


TAKEN = {
    "opaque": lambda path: save(path, transparent(255)),
    "palette": lambda path: save(path, palette()),
    "palette, opaque": lambda path: save(path, palette(), transparency=b"\xff"),
    "bits": lambda path: save(path, Image.fromarray(GRAY[0] > 99)),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_other_forms_of_pixels(tmp_path, kind):
    TAKEN[kind](tmp_path / "x/a.png")
    expected = (GRAY[:1] > 99) * 255 if kind == "bits" else COLOR[0].transpose(2, 0, 1)
    assert np.array_equal(only_one(tmp_path / "x", None), expected)


def animated(path, **settings):
    first, *more = [Image.fromarray(image) for image in COLOR[:3]]
    save(path, first, save_all=True, append_images=more, **settings)


def cut(path):
    save(path, RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-800])


REFUSED = {
    "16 bits": ("a.png", lambda p: save(p, GRAY[0].astype(np.uint16) * 257), "has 16 bits a value"),
    "transparent": (
        "a.png",
        lambda p: save(p, transparent(200)),
        "has transparent pixels; save it on a background",
    ),
    "palette": ("a.png", lambda p: save(p, palette(), transparency=0), "has transparent pixels"),
    "gray": ("a.png", lambda p: save(p, GRAY[0], transparency=int(GRAY[0, 0, 0])), "has transparent pixels"),
    "print": (
        "a.jpg",
        lambda p: save(p, Image.fromarray(COLOR[0]).convert("CMYK")),
        r"has the colors of print \(CMYK\)",
    ),
    "animated": ("a.webp", animated, r"is animated \(3 frames\)"),
    "animated PNG": ("a.png", animated, r"is animated \(3 frames\)"),
    "another format": (
        "a.png",
        lambda p: save(p, COLOR[0], format="GIF"),
        "is broken, or no PNG, JPEG or WebP",
    ),
    "cut short": ("a.png", cut, "is broken"),
    "cut short JPEG": ("a.jpg", cut, "is broken"),
    "empty": ("a.png", lambda p: p.write_bytes(b""), "is broken, or no PNG, JPEG or WebP image;"),
    "text": ("a.jpeg", lambda p: p.write_bytes(b"hello"), "is broken"),
    "a dead link": (
        "a.png",
        lambda p: p.symlink_to("nowhere"),
        r"cannot be read \(No such file or directory\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_cannot_be_used_are_named(images, capsys, kind):
    name, write, message = REFUSED[kind]
    write(images / "cat" / name)
    with pytest.raises(
        UserError, match=f"images: cat/{name} {message}.*data.skip_broken=true leaves out"
    ) as raised:
        opened(images)
    assert "\n" not in str(raised.value)
    data = opened(images, skip_broken=True)
    assert len(data.source.train) + len(data.source.test) == 40
    assert f"1 of 41 files are left out; the first: cat/{name}" in capsys.readouterr().err


def nothing_of_use(images):
    for path in images.rglob("*.png"):
        path.write_bytes(b"")


def elsewhere(images, *names):
    for name in names:
        shutil.copytree(images / "cat", images / name)
    shutil.rmtree(images / "cat")
    shutil.rmtree(images / "bird")


BAD = {
    "missing": (shutil.rmtree, "does not exist"),
    "empty": (
        lambda images: [shutil.rmtree(path) for path in images.iterdir()],
        "holds no PNG, JPEG or WebP",
    ),
    "others": (
        lambda images: [path.rename(path.with_suffix(".tif")) for path in images.rglob("*.png")],
        "holds no PNG, JPEG or WebP image; it has files of .tif",
    ),
    "a file": (lambda images: (shutil.rmtree(images), images.write_bytes(b"")), "is a file; name the folder"),
    "beside": (lambda images: save(images / "a.png", GRAY[0]), "a.png lies beside subfolders, which are"),
    "train alone": (lambda images: elsewhere(images, "train"), "holds train, but no images in test"),
    "no test": (lambda images: elsewhere(images, "train", "val"), "train and val, but no images in test"),
    "train and more": (
        lambda images: elsewhere(images, "train", "test", "old"),
        "holds old beside train and",
    ),
    "few": (
        lambda images: (elsewhere(images, "one"), [p.unlink() for p in list(images.rglob("*.png"))[1:]]),
        "has . (train|test) images of 1",
    ),
    "mixed sizes": (
        lambda images: save(images / "cat/a.png", GRAY[0, 1:]),
        "6x6 pixels and .* 5x6; set data",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_folders_that_cannot_be_used_are_named(images, kind):
    damage, message = BAD[kind]
    damage(images)
    with pytest.raises(UserError, match=f"data.path={images}.*{message}") as raised:
        opened(images, size=None)
    assert "\n" not in str(raised.value)


def test_nothing_but_broken_files(images):
    nothing_of_use(images)
    with pytest.raises(UserError, match=r"none of 40 files can be used; the first: bird/00.png is broken"):
        opened(images, skip_broken=True)


def test_a_folder_that_may_not_be_read(images, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cat cannot be read \(Permission denied\)"):
        opened(images)


def test_links_in_a_circle_and_hidden_files(images):
    before = opened(images).fingerprint
    (images / "cat" / "again").symlink_to(images)
    (images / ".thumbnails").mkdir()
    shutil.copy(images / "cat/01.png", images / ".thumbnails/1.png")
    shutil.copy(images / "cat/01.png", images / "cat/._01.png")
    (images / "cat/notes.txt").write_text("hello")
    assert opened(images).fingerprint == before


@pytest.mark.parametrize("name", ["alias", "dog"])  # before the folder by name, and after it
def test_a_folder_with_two_names_is_read_once_by_its_own(images, name):
    before = opened(images)
    (images / "bird" / name).symlink_to(images / "cat")
    (images / name).symlink_to(images / "cat")
    after = opened(images)
    assert after.fingerprint == before.fingerprint
    assert torch.equal(after.source.test_labels, before.source.test_labels)


def test_a_folder_that_lies_elsewhere_is_read(images, tmp_path):
    before = opened(images).fingerprint
    (images / "cat").rename(tmp_path / "elsewhere")
    (images / "cat").symlink_to(tmp_path / "elsewhere")
    assert opened(images).fingerprint == before


def test_more_than_fits_into_memory(images, monkeypatch):
    monkeypatch.setattr(folder_module, "total_memory", lambda device: 2 * 36 * 9)
    with pytest.raises(UserError, match=r"more than half of the memory .* after 10 of 40 images; .*np.savez"):
        opened(images, size=None)


def test_a_size_that_fills_the_memory_is_refused_before_any_image_is_read(images, monkeypatch):
    monkeypatch.setattr(folder_module, "decode", None)
    with pytest.raises(UserError, match=r"data.path=.*40 images of data.size=1000000 .* lower data.size"):
        opened(images, size=1_000_000)


def test_a_path_of_no_letters_is_not_the_working_directory():
    with pytest.raises(UserError, match=r"data.path is empty; name the folder of the images"):
        opened("")


def test_a_file_that_is_written_anew_is_read_anew(images):
    before = opened(images).fingerprint
    save(images / "cat/01.png", 255 - GRAY[1])
    assert opened(images).fingerprint != before


@pytest.mark.parametrize(
    "settings",
    [{"size": 0}, {"test_share": 0.0}, {"val_share": 1.0}, {"test_share": 0.5, "val_share": 0.5}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match=f"data.{next(iter(settings))}="):
        Folder("x", **settings)


def test_a_run_on_a_folder(command, npz, images):
    settings = [setting for setting in tiny(npz) if not setting.startswith(("data=", "data.path="))]
    where = ["data=folder", f"data.path={images}", "data.size=6", "run_dir=run"]
    code, _, err = command("train", *settings, *where)
    assert code == 0, err
    code, _, err = command("evaluate", "run=run", "split=val", "num_samples=2")
    assert code == 0, err


def test_images_that_a_run_was_trained_on_do_not_validate_another(command, npz, images):
    settings = [
        setting for setting in tiny(npz) if not setting.startswith(("data=", "data.path=", "data.val"))
    ]
    settings += ["data=folder", f"data.path={images}", "data.size=6"]
    for name, val_size in (("all", "0"), ("split", "null")):
        code, _, err = command("train", *settings, f"run_dir={name}", f"data.val_size={val_size}")
        assert code == 0, err
    code, _, err = command("train", *settings, "run_dir=next", "init_from=all", "data.val_size=null")
    assert code == 1
    assert "would validate on images that init_from=" in err
    assert "set data.val_size=0" in err
    code, _, err = command("train", *settings, "run_dir=next", "init_from=split", "data.val_size=null")
    assert code == 0, err
    code, _, err = command("train", *settings, "run_dir=fewer", "init_from=split", "data.val_size=1")
    assert code == 0, err
    more = [*settings, "run_dir=more", "init_from=split", "data.val_size=1"]
    for share in ("data.test_share=0.5", "data.val_share=0.0"):  # other images test, or come last
        code, _, err = command("train", *more, share)
        assert (code, err.count("\n")) == (1, 1)
        assert f"{share} splits the images otherwise than init_from=" in err
