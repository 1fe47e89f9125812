"""Whether a JPEG's data are as many as its header promises. Of what they lack the decoder makes one colour, and says
nothing: to libjpeg that is a warning, and Pillow has no ear for those."""

import io

from PIL import Image, ImageChops

ROWS, BLOCK = 8, 16  # that are looked at first; the largest block's side
FILLER = bytes(range(1, 200, 3))
BEHIND = FILLER + b"".join(bytes((0xFF, 0xD0 + number)) + FILLER for number in range(8))  # after every restart marker
END = b"\xff\xd9"


def require_all_data(image: Image.Image, data: bytes) -> None:
    """Raises: ValueError when a JPEG, decoded to `image` as it lies, has last rows that its data do not hold.

    Only where those rows are of one colour the picture is decoded once more, with bytes that mean nothing behind its
    data: of a picture that is whole nobody reads them. Not noticed are one or two rows of blocks that lack, a last
    block that lacks a few bits, and data for more rows than promised.
    """
    if image.format not in ("JPEG", "MPO") or END not in data or not ends_in_one_colour(image):
        return
    end = data.rindex(END)
    with Image.open(io.BytesIO(data[:end] + BEHIND + data[end:])) as again:
        again.load()
        differs = ImageChops.difference(image, again).getbbox()
    if differs and (differs[0] < image.width - BLOCK or differs[1] < image.height - BLOCK):
        raise ValueError(f"image file is truncated: its header promises {image.height} rows, its data hold fewer")


def ends_in_one_colour(image: Image.Image) -> bool:
    """Whether the last rows are of one colour."""
    rows = image.crop((0, max(0, image.height - ROWS), image.width, image.height))
    return all(low == high for low, high in (band.getextrema() for band in rows.split()))
