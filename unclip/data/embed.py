"""Shards through a CLIP: parts of the embedding table, row i of which is proved to be image i.

B rows a batch, P the CLIP's image side, D dimension, L context. Every batch but a shard's last has B rows and holds
rows of one shard only, so that a part's bytes depend on its shard alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import PIL
import pyarrow as pa

from unclip.data.crops import Crop
from unclip.data.decoding import Decoder
from unclip.data.images import Pixels
from unclip.data.listings import Listing
from unclip.data.rows import Row, refusals
from unclip.data.table import Embedded, Floats, TableInfo, Tokens, storable, versions_json
from unclip.data.tokens import num_filled, num_tokens

MIN_CHECK_COSINE = 0.999  # float16 storage costs 3e-8, bf16 in another place of a batch about 1e-4
TAIL = 16  # a shard's last batch is padded to a multiple of so many rows
UNEMBEDDABLE = "embedding_not_finite"

Which = TypeVar("Which")


class EncoderFacts(Protocol):
    """What a frozen CLIP is, to be known without its weights in memory."""

    name: str
    weights_digest: str  # SHA-256 of the weights
    network_digest: str  # of the configuration that the weights are put into: an activation has no weights
    preprocessing_digest: str
    tokenizer: str
    context: int
    dimension: int
    image_px: int
    interpolation: str  # of unclip.data.images.INTERPOLATIONS
    compute_type: str  # "fp32", "bf16"
    versions: dict[str, str]

    @property
    def code_digest(self) -> str:
        """Of the code that encodes."""
        ...


class Encoder(EncoderFacts, Protocol):
    """A frozen CLIP as the table needs it."""

    crop: Crop

    def tokenize(self, captions: list[str]) -> Tokens:
        """Token ids (B, L), padded as `unclip.data.tokens` knows by the tokenizer's name."""
        ...

    def encode_image(self, pixels: Pixels) -> Floats:
        """Raw embeddings (B, D) of uint8 (B, P, P, 3)."""
        ...

    def encode_text(self, tokens: Tokens) -> Floats:
        """Raw embeddings (B, D) of tokens (B, L)."""
        ...


@dataclass(frozen=True)
class Made:
    """A shard after the encoder: every row of it is embedded, unembeddable or was refused before."""

    listing: Listing
    rows: list[Row]  # what the source made of each
    places: list[int]  # of the embedded rows
    embedded: Embedded
    unembeddable: list[int]  # places of rows whose embeddings cannot be stored
    tokenizer: str

    @property
    def context_filled(self) -> int:
        """How many captions are as long as the context, or were cut to it."""
        return num_filled(self.embedded.tokens, self.tokenizer)

    @property
    def refused(self) -> dict[str, int]:
        """How many rows are not embedded, by reason."""
        return refusals([row.status for row in self.rows] + [UNEMBEDDABLE] * len(self.unembeddable))


def embed_listings(
    listings: Iterable[tuple[Which, Listing]], encoder: Encoder, decoder: Decoder, progress: Callable[..., None]
) -> Iterator[tuple[Which, Made]]:
    """Each shard's embeddings in order, those ahead being decoded meanwhile; progress(rows, of) is the shard's."""
    rows: list[Row] = []
    images: list[Floats] = []
    for which, listing, batch in decoder.batches(listings):
        if batch.start == 0:
            rows, images = [], []
        is_there = np.array([row.key is not None for row in batch.rows], bool)
        if is_there.any():
            size = padded_size(len(batch.rows), decoder.batch_size)
            images.append(encoder.encode_image(batch.pixels[:size])[: len(batch.rows)][is_there])
        rows += batch.rows
        progress(len(rows), len(listing))
        if len(rows) == len(listing):
            yield which, finished(listing, rows, images, encoder, decoder.batch_size)


def finished(listing: Listing, rows: list[Row], images: list[Floats], encoder: Encoder, batch_size: int) -> Made:
    """A shard whose pictures are embedded, with its captions embedded too."""
    places = [i for i, row in enumerate(rows) if row.key is not None]
    image = np.concatenate([np.empty((0, encoder.dimension), np.float32), *images])
    tokens = np.empty((0, encoder.context), np.int32)
    if places:
        tokens = np.asarray(encoder.tokenize([rows[i].caption for i in places]), np.int32)
    text = encode_texts(encoder, tokens, batch_size)
    good = storable(image) & storable(text)
    kept = [i for i, is_good in zip(places, good, strict=True) if is_good]
    embedded = Embedded(
        keys=[listing.keys[i] for i in kept],
        sample_ids=[rows[i].sample_id for i in kept],
        image_sha256=[rows[i].image_sha256 or b"" for i in kept],
        image=image[good],
        text=text[good],
        tokens=tokens[good],
        captions=[rows[i].caption for i in kept],
    )
    bad = [i for i, is_good in zip(places, good, strict=True) if not is_good]
    return Made(listing, rows, kept, embedded, bad, encoder.tokenizer)


def encode_texts(encoder: Encoder, tokens: Tokens, batch_size: int) -> Floats:
    """Raw text embeddings (N, D) of tokens (N, L).

    Captions of like length go together: an encoder that need not read the padding after them has less to do.
    """
    order = np.argsort(num_tokens(tokens, encoder.tokenizer), kind="stable")
    text = np.empty((len(tokens), encoder.dimension), np.float32)
    for start in range(0, len(tokens), batch_size):
        rows = order[start : start + batch_size]
        text[rows] = encoder.encode_text(padded(tokens[rows], padded_size(len(rows), batch_size)))[: len(rows)]
    return text


def padded_size(num_rows: int, batch_size: int) -> int:
    """How many rows a batch of so many is encoded as: few shapes, and little wasted on small shards."""
    return min(batch_size, -(-num_rows // TAIL) * TAIL)


def padded(rows: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Rows followed by zeros up to `size`."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def info_of(encoder: EncoderFacts, shard_digest: str, num_rows: int) -> TableInfo:
    """What a part made by an encoder says of itself."""
    return TableInfo(
        model=encoder.name,
        weights_digest=encoder.weights_digest,
        preprocessing_digest=encoder.preprocessing_digest,
        tokenizer=encoder.tokenizer,
        context=encoder.context,
        dimension=encoder.dimension,
        compute_type=encoder.compute_type,
        versions=versions_json(**versions_now(encoder)),
        shard_digest=shard_digest,
        num_rows=num_rows,
    )


def versions_now(encoder: EncoderFacts) -> dict[str, str]:
    """The libraries that decode and compute here, with their versions."""
    return {"numpy": np.__version__, "pillow": PIL.__version__, "pyarrow": pa.__version__, **encoder.versions}


def text_digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
