"""How a file becomes an 8-bit RGB image, and which are refused with what reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from recon.data.source import ENDINGS, MAX_PIXELS, UnreadableImage, as_unreadable, read_rgb
from tests.recon.data.conftest import picture


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def read(file):
    """The pixels of a file, (H, W, 3)."""
    image = read_rgb(file)
    assert image.mode == "RGB"
    return np.asarray(image)


def ramp(most):
    """All tones from 0 to `most`, as far as 64 x 64 pixels hold them."""
    return np.linspace(0, most, 4096).round().reshape(64, 64)


def grey_map(most, binary=True):
    """A portable grey map of the values 0 to `most`."""
    values = ramp(most).astype(int)
    if not binary:
        return io.BytesIO(f"P2 64 64 {most}\n{' '.join(map(str, values.flatten()))}\n".encode())
    return io.BytesIO(f"P5 64 64 {most}\n".encode() + values.astype(">u2" if most > 255 else ">u1").tobytes())


def tiff_of_12_bits():
    """Which Pillow reads, into 16 bits, and does not write."""
    first, second = ramp(4095).astype(int).reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    tags = {256: 64, 257: 64, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    place = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    return io.BytesIO(place + packed + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_wide_grey_values_are_scaled_by_their_range():
    sixteen = ramp(65535).astype(np.uint16)
    files = {f"PGM of {most}": grey_map(most) for most in (1, 15, 255, 1023, 4095, 65535)}
    files |= {f"plain PGM of {most}": grey_map(most, binary=False) for most in (15, 1023, 65535)}
    files |= {kind: encoded(Image.fromarray(sixteen), kind) for kind in ("PNG", "TIFF", "JPEG2000")}
    files |= {"big-endian TIFF": encoded(Image.fromarray(sixteen.astype(">u2")), "TIFF"), "12 bits": tiff_of_12_bits()}
    for name, file in files.items():
        tones = 2 if name[-4:] == "of 1" else 16 if name.endswith("15") else 256
        expected = (ramp(tones - 1) / (tones - 1) * 255).round()
        assert abs(read(file)[..., 0] - expected).max() <= 255 / tones + 1, name
        assert read_mean(file) == pytest.approx(127.5, abs=0.2), name


def read_mean(file):
    file.seek(0)
    return read(file).mean()


def test_values_of_32_bits_have_no_known_range_and_are_refused():
    for values in (ramp(1).astype(np.float32), ramp(2**31 - 1).astype(np.int32)):
        with pytest.raises(ValueError, match="no known range; store it with 8 or 16 bits"):
            read_rgb(encoded(Image.fromarray(values), "TIFF"))


ORIENTED = {  # by the tag: what turns the stored pixels upright
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_orientation_is_applied_for_every_kind_of_file(kind):
    image = picture(0)
    for tag, upright in ORIENTED.items():
        exif = Image.Exif()
        exif[274] = tag
        options = {"lossless": True} if kind == "WEBP" else {}
        stored = read(encoded(image, kind, **options))
        assert np.array_equal(read(encoded(image, kind, exif=exif, **options)), upright(stored)), tag


def test_a_picture_with_damaged_exif_data_is_read():
    file = encoded(picture(0), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(read(file), np.asarray(picture(0)))


def test_what_is_transparent_is_put_on_white():
    pixels = np.asarray(picture(0)).astype(float)
    alpha = np.linspace(0, 255, 40).round()[None, :, None].repeat(30, 0)
    expected = pixels * alpha / 255 + 255 - alpha
    rgba = Image.fromarray(np.concatenate([pixels, alpha], 2).astype(np.uint8))
    for kind in ("PNG", "TIFF"):
        assert abs(read(encoded(rgba, kind)) - expected).max() <= 1, kind
    grey = rgba.convert("LA")
    shown = np.asarray(grey).astype(float)
    assert abs(read(encoded(grey))[..., 0] - (shown[..., 0] * alpha[..., 0] / 255 + 255 - alpha[..., 0])).max() <= 1
    palette = picture(0).quantize(16)
    clear = np.asarray(palette) == 3
    assert (read(encoded(palette, transparency=3))[clear] == 255).all()
    assert np.array_equal(read(encoded(palette, transparency=3))[~clear], np.asarray(palette.convert("RGB"))[~clear])


def test_one_transparent_colour_is_white():
    """A PNG may name one, of RGB and of grey values, also of 16 bits."""
    rgb, grey, deep = picture(0), picture(0).convert("L"), Image.fromarray(ramp(65535).astype(np.uint16))
    for image, colour in ((rgb, rgb.getpixel((3, 4))), (grey, grey.getpixel((3, 4))), (deep, deep.getpixel((3, 4)))):
        with_colour, without = read(encoded(image, transparency=colour)), read(encoded(image))
        clear = (np.asarray(image).reshape(*without.shape[:2], -1) == colour).all(-1)
        assert clear.any() and (with_colour[clear] == 255).all()
        assert np.array_equal(with_colour[~clear], without[~clear])


def test_much_text_or_a_large_profile_does_not_make_a_picture_unreadable():
    text = PngImagePlugin.PngInfo()
    text.add_text("about", "x" * 3_000_000, zip=True)
    profile = np.random.default_rng(0).bytes(2_000_000)
    for file in (encoded(picture(0), pnginfo=text), encoded(picture(0), icc_profile=profile)):
        assert np.array_equal(read(file), np.asarray(picture(0)))


def one_bit_png(width, height):
    """A black PNG of any size in little memory."""

    def chunk(kind, content):
        body = kind + content
        return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + b"\1\0\0\0\0"
    rows = zlib.compress(bytes((1 + -(-width // 8)) * min(height, 100)), 9)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_an_image_of_too_many_pixels_is_refused_without_a_warning_and_without_being_decoded(capfd):
    with warnings.catch_warnings(record=True) as said, pytest.raises(UnreadableImage) as error:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as in a process of its own
        with as_unreadable("big.png"):
            read_rgb(one_bit_png(12_000, 12_000))
    assert str(error.value) == f"big.png: 12000 x 12000 pixels, more than {MAX_PIXELS:,}; store it smaller"
    assert not said and capfd.readouterr() == ("", "")
    assert read(one_bit_png(100, 100)).shape == (100, 100, 3)


def test_every_ending_is_one_that_pillow_reads():
    Image.init()
    for ending in ENDINGS:
        assert Image.registered_extensions()[f".{ending}"] in Image.OPEN, ending
