"""Rows of a dump embedded again from their pictures and captions, and compared with what is stored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from unclip.data.dump import part_paths
from unclip.data.dump_origin import refuse_other_clip
from unclip.data.dump_pictures import ReadPicture
from unclip.data.embed import MIN_CHECK_COSINE, Encoder, padded
from unclip.data.images import open_rgb
from unclip.data.part_check import SampledRow
from unclip.data.problems import Problem, shown
from unclip.data.table import EMBEDDED, UNKNOWN, Floats, read_info

ENCODED_TOGETHER = 32  # rows of one batch
MIN_IMPORTED_COSINE = 0.99  # others compute in float16
NORM_SHARE = 0.01  # by which the norm of a row embedded again may differ; bf16 and fp32 of ViT-B/32 differ by 0.001


def embedded_again(
    dump: Path, rows: Sequence[SampledRow], open_encoder: Callable[[str], Encoder], read: ReadPicture
) -> tuple[int, list[Problem]]:
    """How many sampled rows were embedded again; those whose embeddings are others, or whose picture is gone."""
    info = read_info(part_paths(dump)[rows[0].part])
    if info.weights_digest == UNKNOWN:
        return 0, []
    try:
        encoder = open_encoder(info.compute_type if info.origin == EMBEDDED else "fp32")
        refuse_other_clip(dump, encoder)
    except Exception as error:  # of a damaged file a loader raises nearly anything
        return 0, [Problem("clip", "weights", f"refused: {error}", "the CLIP that the parts were made with")]
    problems: list[Problem] = []
    for start in range(0, len(rows), ENCODED_TOGETHER):
        batch = rows[start : start + ENCODED_TOGETHER]
        problems += texts_again(batch, encoder)
        if batch[0].tokens is not None:  # nothing proves which pictures an imported row is of
            problems += images_again(batch, encoder, read)
    return len(rows) - sum(problem.field == "picture" for problem in problems), problems


def texts_again(rows: Sequence[SampledRow], encoder: Encoder) -> Iterator[Problem]:
    """Rows whose tokens or text embeddings are not those of their captions."""
    tokens = np.asarray(encoder.tokenize([row.caption for row in rows]), np.int32)
    for row, again in zip(rows, tokens.tolist(), strict=True):
        if row.tokens is not None and again != row.tokens:
            yield Problem(row.file, "tokens", shown(str(row.tokens)), shown(str(again)), row.key)
    yield from compared("text", rows, encoder.encode_text(padded(tokens, ENCODED_TOGETHER)))


def images_again(rows: Sequence[SampledRow], encoder: Encoder, read: ReadPicture) -> Iterator[Problem]:
    """Rows whose pictures are gone or changed, or whose image embeddings are not those of their pictures."""
    there, pixels = [], []
    for row in rows:
        try:
            square = encoder.crop(open_rgb(read(row.part, row.key)))
        except (ValueError, OSError, MemoryError) as error:
            yield Problem(row.file, "picture", f"not to be had: {error}", "the bytes that were embedded", row.key)
            continue
        there.append(row)
        pixels.append(square)
    if there:
        yield from compared("image", there, encoder.encode_image(padded(np.stack(pixels), ENCODED_TOGETHER)))


def compared(kind: str, rows: Iterable[SampledRow], again: Floats) -> Iterator[Problem]:
    """Rows whose stored vector points elsewhere, or is longer or shorter, than the one embedded again."""
    for row, new in zip(rows, again, strict=False):
        old = np.nan_to_num(row.stored[kind], posinf=0, neginf=0)
        norm, new_norm = float(np.linalg.norm(old)), float(np.linalg.norm(new))
        cosine = float(old @ new) / max(norm * new_norm, 1e-30)
        least = MIN_CHECK_COSINE if row.tokens is not None else MIN_IMPORTED_COSINE
        if not cosine >= least:
            value = f"at cosine {cosine:.5f} to the one embedded again"
            yield Problem(row.file, f"{kind}_embedding", value, f">= {least}", row.key)
        elif row.tokens is not None and abs(norm / new_norm - 1) > NORM_SHARE:
            value = f"of norm {norm:.5g}, embedded again {new_norm:.5g}"
            yield Problem(row.file, f"{kind}_embedding", value, f"the same to {NORM_SHARE:.0%}", row.key)
