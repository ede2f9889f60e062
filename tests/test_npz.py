"""A user's own ``.npz`` file: what is taken, what is refused with which line, and what is read of it."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from conftest import tiny

from ladder_vae.data import Npz
from ladder_vae.data import npz as npz_module
from ladder_vae.data.npz import load_npz
from ladder_vae.system.errors import UserError

BYTES = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    """Saves arrays, by default good ones; returns the path."""

    def save(name="own.npz", **arrays):
        np.savez(tmp_path / name, **({"x_train": BYTES, "x_test": BYTES[:2]} | arrays))
        return tmp_path / name

    return save


TAKEN = {
    "bytes": BYTES,
    "channel first": BYTES[:, None],
    "channel last": BYTES[..., None],
    "Fortran order": np.asfortranarray(BYTES),
    "uint16": BYTES.astype(np.uint16),
    "int64": BYTES.astype(np.int64),
    "big-endian": BYTES.astype(">i4"),
    "float32": BYTES.astype(np.float32) / 255,
    "float16": (BYTES / 255).astype(np.float16),
    "float64, beyond by rounding": BYTES / 255 * 1.0000001 - 1e-8,
    "Fortran floats": np.asfortranarray(BYTES / 255),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_the_same_images_in_any_form(saved, kind, monkeypatch):
    monkeypatch.setattr(npz_module, "BLOCK", 4)
    data, plain = (Npz(str(saved(name, x_train=x)), binarization="static")
                   for name, x in (("own.npz", TAKEN[kind]), ("plain.npz", BYTES)))  # fmt: skip
    assert np.array_equal(load_npz(data.path).train, BYTES[:, None])
    assert data.fingerprint == plain.fingerprint
    assert torch.equal(data.split("train"), plain.split("train"))  # drawn


def test_binary_images(saved):
    bits = np.asfortranarray(BYTES > 99)
    a, b = (load_npz(saved(x_train=x)).train for x in (bits, bits * 1.0))
    assert torch.equal(a, torch.from_numpy(bits[:, None] * np.uint8(255)))
    assert torch.equal(a, b)
    assert a.is_contiguous()


def changed(value, dtype=np.float64):
    array = (BYTES / 255).astype(dtype) if np.issubdtype(dtype, np.floating) else BYTES.astype(dtype)
    array[3, 1, 2] = value
    return array


REFUSED = {
    "NaN": (changed(np.nan), r"x_train holds NaN in image 3, pixel \(1, 2\); replace it"),
    "infinity": (changed(-np.inf), "x_train holds an infinite value in image 3"),
    "above": (changed(1.5), "x_train holds 1.5 in image 3.*divide them by 255"),
    "below": (changed(-0.5), "x_train holds -0.5 in image 3.*undo the normalization"),
    "far above": (changed(999), "x_train holds 999 in image 3.*scale them"),
    "half floats": (changed(300, np.float16), "x_train holds 300 in image 3"),
    "16 bits": (changed(65535, np.uint16), "x_train holds 65535 in image 3; scale integers to 0 to 255"),
    "negative": (changed(-1, np.int8), "x_train holds -"),
    "twice divided": (BYTES / 255 / 255, "at most 0.0038, and 1/255 is .*twice; multiply them by 255"),
    "zeros and ones": (BYTES % 2, "0 and 1.*booleans"),
    "zeros and ones, int64": (BYTES.astype(int) % 2, "0 and 1.*booleans"),
    "alpha": (np.stack([BYTES] * 4, -1), r"shape \(6, 4, 3, 4\); transparency.*array\[..., :3\]"),
    "alpha first": (np.stack([BYTES.repeat(2, 2)] * 4, 1), r"transparency.*array\[:, :3\]"),
    "two channels": (np.stack([BYTES.repeat(2, 1)] * 2, -1), r"shape \(6, 8, 3, 2\).*C of 1 or 3"),
    "flat": (BYTES.reshape(8, 9), r"shape \(8, 9\);.*array.reshape\(-1, 3, 3\)"),
    "flat, no square": (BYTES.reshape(6, 12), r"shape \(6, 12\);.*reshape it"),
    "no image": (BYTES[:0], "x_train holds no images"),
    "one image": (BYTES[:1], "x_train holds a single image; training takes at least two"),
    "a number": (np.uint8(3), r"shape \(\)"),
    "complex": (BYTES * 1j, "type complex128"),
    "text": (np.full((6, 4, 3), "0"), "type <U1"),
    "records": (np.zeros((6, 4, 3), [("a", int)]), "has type"),
    "objects": (np.array([BYTES[0], BYTES[0, :2]], dtype=object), "x_train holds Python objects.*one size"),
    "other size": (BYTES[:, 1:], r"x_train has images of \(3, 3\) pixels, x_test of \(4, 3\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_images_is_named(saved, kind):
    array, message = REFUSED[kind]
    path = saved(x_train=array)
    with pytest.raises(UserError, match=message) as raised:
        load_npz(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


NUMBERS = np.array([2, 0, 1, 2, 0, 1])
LABELS = {
    "column": (NUMBERS[:, None], NUMBERS),
    "floats": (NUMBERS * 1.0, NUMBERS),
    "booleans": (NUMBERS > 0, NUMBERS > 0),
    "bytes": (NUMBERS.astype(np.uint8), NUMBERS),
    "text of numbers": (np.array(["10", "2", "3", "10", "2", "3"]), [10, 2, 3, 10, 2, 3]),
    "text": (np.array(["shoe", "bag", "cat", "shoe", "bag", "cat"]), [2, 0, 1, 2, 0, 1]),
    "text as bytes": (np.array([b"shoe", b"bag", b"cat", b"shoe", b"bag", b"cat"]), [2, 0, 1, 2, 0, 1]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(saved, kind):
    given, expected = LABELS[kind]
    loaded = load_npz(saved(y_train=given, y_test=given[1:3]))
    assert loaded.train_labels.dtype == torch.int64
    assert loaded.train_labels.tolist() == np.asarray(expected, int).tolist()
    assert loaded.test_labels.tolist() == loaded.train_labels[1:3].tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (NUMBERS[:3], r"y_train must hold 6 labels, one per image; its shape is \(3,\)$"),
        (np.eye(6), r"its shape is \(6, 6\); of one-hot labels save argmax\(1\)"),
        (NUMBERS + 0.5, "y_train holds 2.5 for image 0; labels are whole numbers"),
        (np.where(NUMBERS == 0, np.nan, 1), "y_train holds nan for image 1"),
        (NUMBERS * 1j, "y_train is complex128"),
        (np.array(list("abcabc"), dtype=object), "y_train holds Python objects.*astype"),
        (np.array(list("abcabc")), "y_train holds words and y_test numbers"),
    ],
)
def test_labels_that_are_none_are_named(saved, labels, message):
    with pytest.raises(UserError, match=message):
        load_npz(saved(y_train=labels, y_test=NUMBERS[:2]))


def test_other_arrays_are_not_read(saved):
    path = saved(notes=np.array({"made": "by hand"}, dtype=object), features=np.zeros(9), words=np.array("a"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("broken.npy", b"no array")
        archive.writestr("README.txt", b"hello")
    assert len(load_npz(path).train) == 6


def test_the_validation_split_of_the_file(saved, capsys):
    val = 255 - BYTES[:3]
    path = saved(x_val=val, y_val=NUMBERS[:3], y_train=NUMBERS, y_test=NUMBERS[:2])
    own, numbered, none = (Npz(str(path), val_size=n, binarization="threshold") for n in (None, 2, 0))
    assert torch.equal(own.split("val")[:, 0], torch.from_numpy(val).ge(128).byte() * 255)
    assert len(own.split("train")) == 6
    assert own.labels("val").tolist() == NUMBERS[:3].tolist()
    assert own.val_size == 3
    assert "warning" not in capsys.readouterr().err
    assert torch.equal(numbered.split("val")[:, 0], torch.from_numpy(BYTES[4:]).ge(128).byte() * 255)
    assert len(none.split("train")) == 6
    said = capsys.readouterr().err
    assert said.count("x_val is not used, because data.val_size is a number; data.val_size=null") == 1
    plain = Npz(str(saved("plain.npz")), binarization="threshold")
    assert plain.fingerprint == none.fingerprint != own.fingerprint  # runs of before, and what x_val changes
    assert plain.val_size == len(plain.split("val")) == 0
    assert plain.examples(2)[0] == "train"
    assert Npz(str(path)).examples(2)[0] == "val"
    with pytest.raises(UserError, match="has y_train and x_val, but no y_val; add it, or leave out y_train"):
        load_npz(saved("unlabeled.npz", x_val=val, y_train=NUMBERS), validation=True)


def test_a_run_validates_on_the_files_own_split(command, npz, tmp_path):
    path = tmp_path / "own.npz"
    with np.load(npz) as arrays:
        np.savez(path, x_val=arrays["x_train"][:7], **{k: v for k, v in arrays.items() if k[0] == "x"})
    code, _, err = command("train", *tiny(path), "callbacks=early_stopping", "run_dir=run")
    assert code == 0, err
    assert "warning" not in err.replace("warning: beta does not reach 1", "")
    code, _, err = command("evaluate", "run=run", "split=val", "num_samples=2")
    assert code == 0, err
    assert "val_size: null" in (tmp_path / "run/config.yaml").read_text()
    code, _, err = command("train", *tiny(path), "init_from=run", "data.val_size=3", "run_dir=next")
    said, refused = err.splitlines()
    assert said.startswith("warning: data.path=")
    assert refused.startswith("error: data.val_size=3 would validate on images that init_from=")
    code, _, err = command("train", *tiny(npz), "run_dir=plain")
    assert code == 0, err
    assert "val_size: 0" in (tmp_path / "plain/config.yaml").read_text()


def test_a_file_that_is_written_anew_is_read_anew(saved):
    path = saved()
    before, times = load_npz(path), os.stat(path)
    assert load_npz(path) is before
    saved(x_train=255 - BYTES)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, at the same time
    assert torch.equal(load_npz(path).train, 255 - before.train)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def directory(path):
    path.unlink()
    path.mkdir()


def no_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train", b"")


def overstated(path):
    """A header that promises more than there is."""
    with path.with_suffix(".npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 4, 3)}
        )
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".npy"), "x_train.npy")
        archive.write(path.with_suffix(".npy"), "x_test.npy")


BROKEN = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty.*np.savez"),
    "directory": (directory, "is a directory; name an .npz file"),
    "pipe": (pipe, "is a pipe or a device"),
    ".npy": (lambda path: np.save(path.open("wb"), BYTES), "is a .npy file.*np.savez"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"x_train": BYTES})), "is a pickle.*np.savez"),
    "text": (lambda path: path.write_text("x_train: 1"), "is not a readable .npz file.*np.savez"),
    "cut short": (cut, "cut short or damaged: copy or write it again"),
    "a flipped bit": (flip, "cut short or damaged"),
    "another zip": (no_arrays, "lacks the array x_test and x_train; it has none"),
    "overstated": (overstated, "should hold 12,000,000,000 bytes and has 0"),
    "link to a device": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "pipe or a device"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_none_is_named(saved, kind):
    damage, message = BROKEN[kind]
    path = saved()
    damage(path)
    with pytest.raises(UserError, match=message) as raised:
        load_npz(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "save"),
    [
        ({}, np.savez_compressed),
        ({"x_train": BYTES / 255}, np.savez),
        ({"x_train": np.asfortranarray(BYTES)}, np.savez),
    ],
)
def test_what_cannot_stay_on_disk_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, arrays, save):
    save(
        tmp_path / "own.npz", **({"x_train": BYTES, "x_test": BYTES[:2], "unasked": np.zeros(10**6)} | arrays)
    )
    monkeypatch.setattr(npz_module, "total_memory", lambda device: 50)
    monkeypatch.setattr(npz_module.npy, "read_array", None)
    with pytest.raises(
        UserError, match=r"unpacks to 0.0 GiB \(x_train.*0.0 GiB of memory; .*np.savez"
    ) as raised:
        load_npz(tmp_path / "own.npz")
    assert "unasked" not in str(raised.value)
