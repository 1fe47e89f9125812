"""Settings of the data stages; free of heavy imports, so that a plan can read them at once."""

import re
from dataclasses import dataclass
from typing import Any

from unclip.data.more_columns import require_more
from unclip.recipe import neutral


def require(holds: bool, field: str, allowed: str, value: Any) -> None:
    """Refuse a setting. Raises: ValueError with the field, what it must be, and what it is."""
    if not holds:
        raise ValueError(f"{field} must be {allowed}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Pictures drawn by us, `num_samples` in shards of `shard_size`; a share of the combinations is held out."""

    num_samples: int = 30_000
    shard_size: int = 2_000
    difficulty: str = "easy"  # "easy" or "full"
    image_px: int = 64
    pair_prob: float = 0.6
    held_out_prob: float = 0.15  # share of attribute combinations kept for test only

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises: ValueError naming the field.
        """
        require(1 <= self.shard_size <= 99_999, "shard_size", "in 1..99999", self.shard_size)
        for name, least in (("num_samples", 1), ("image_px", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.difficulty not in ("easy", "full"):
            raise ValueError(f"difficulty must be one of easy, full, got {self.difficulty!r}")
        if not 0 <= self.pair_prob <= 1:
            raise ValueError(f"pair_prob must be in 0..1, got {self.pair_prob}")
        if not 0 <= self.held_out_prob <= 0.5:
            raise ValueError(f"held_out_prob must be in 0..0.5, got {self.held_out_prob}")

    @property
    def num_shards(self) -> int:
        """How many shards hold `num_samples`; the last may be smaller."""
        return -(-self.num_samples // self.shard_size)


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """A folder of images and a CSV, with a header, of their captions."""

    folder: str
    captions: str  # path of the CSV
    file_column: str = "file"  # paths relative to `folder`
    caption_column: str = "caption"
    more_columns: tuple[str, ...] = ()  # their values go into the samples' JSON
    shard_size: int = 2_000  # rows

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        require(1 <= self.shard_size <= 99_999, "shard_size", "in 1..99999", self.shard_size)
        require(
            self.file_column != self.caption_column,
            "file_column",
            "another column than the caption's",
            self.file_column,
        )
        require_more(self.more_columns, self.file_column, self.caption_column)


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """WebDataset tars that exist already, in the order of their names; one shard each."""

    pattern: str  # "data/{00000..00009}.tar", "data/*.tar" or both

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        require(self.pattern.endswith(".tar"), "pattern", "a path that ends in .tar", self.pattern)


@dataclass(frozen=True, kw_only=True)
class UrlsConfig:
    """A list of image URLs and captions: CSV, Parquet or JSONL by the file's ending."""

    path: str
    url_column: str = "url"
    caption_column: str = "caption"
    more_columns: tuple[str, ...] = ()  # such as punsafe: their values go into the samples' JSON
    shard_size: int = 2_000  # rows of the list, refused ones counted
    blocked_domains: str | None = None  # a text file, one domain a line: nothing of it or below it is fetched
    blocked_urls: str | None = None  # a text file, one URL a line

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        require(
            self.path.lower().endswith((".csv", ".parquet", ".jsonl")), "path", "a .csv, .parquet or .jsonl", self.path
        )
        require(1 <= self.shard_size <= 99_999, "shard_size", "in 1..99999", self.shard_size)
        require(
            self.url_column != self.caption_column,
            "url_column",
            "another column than the caption's",
            self.url_column,
        )
        require_more(self.more_columns, self.url_column, self.caption_column)


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Rows of a URL list that were refused, to be fetched again as a further shard; `unclip retry` writes the file."""

    path: str
    origins: tuple[int, ...]  # the shards whose refusals still stand


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How URLs are fetched, through img2dataset in its own environment, and what of them is kept."""

    num_processes: int = neutral(2)  # that fetch; as many threads decode afterwards
    num_threads: int = neutral(32)  # that fetch, a process
    distributor: str = neutral("multiprocessing")  # of img2dataset: here; "ray" or "pyspark": on a cluster, or here
    subjob_size: int | None = neutral(None)  # pyspark: parts of 500 rows that are under way at once
    timeout_s: float = 10.0  # a request, from its first connection to its last byte
    deadline_s: float = 600.0  # all passes of a shard, from the first request of each; the rest is `unfinished`
    stall_s: float = 60.0  # while requests are under way and none ends; the same then
    retries: int = 1  # further passes over rows that failed for a reason that may pass: `PASSING` in fates.py, and 5xx
    schemes: tuple[str, ...] = ("http", "https")
    allow_private: bool = False  # addresses of loopback, private and other networks that are not the internet's
    blocked_domains: str | None = neutral(None)  # where no redirect may lead: source.urls.blocked_domains
    blocked_urls: str | None = neutral(None)  # likewise: source.urls.blocked_urls
    user_agent_token: str | None = None  # the name by which hosts know you; X-Robots-Tag may speak to it alone
    disallowed_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")  # of X-Robots-Tag
    max_bytes: int = 20_000_000  # of a file
    max_pixels: int = 64_000_000
    max_side_px: int = 512  # larger pictures are reduced to this on their longer side
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparency
    min_success_fraction: float = neutral(0.5)  # of a shard, repeats left out (docs/download.md)

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        for field in ("num_processes", "num_threads", "max_bytes", "max_side_px"):
            require(getattr(self, field) >= 1, field, ">= 1", getattr(self, field))
        for field in ("timeout_s", "deadline_s", "stall_s"):
            require(getattr(self, field) > 0, field, "> 0", getattr(self, field))
        require(self.retries >= 0, "retries", ">= 0", self.retries)
        allowed = bool(self.schemes) and set(self.schemes) <= {"http", "https"}
        require(allowed, "schemes", "http, https or both", self.schemes)
        # Pillow refuses more than twice its own limit, whatever is set here.
        require(1 <= self.max_pixels <= 178_956_970, "max_pixels", "in 1..178956970", self.max_pixels)
        colour = len(self.background) == 3 and all(0 <= level <= 255 for level in self.background)
        require(colour, "background", "three levels in 0..255", self.background)
        known = ("multiprocessing", "ray", "pyspark")
        require(self.distributor in known, "distributor", f"one of {', '.join(known)}", self.distributor)
        parts, token = self.subjob_size, self.user_agent_token
        require(parts is None or self.distributor == "pyspark", "subjob_size", "null without pyspark", parts)
        require(parts is None or parts >= 1, "subjob_size", ">= 1", parts)
        is_name = token is None or re.fullmatch(r"[\w-]+", token, re.ASCII) is not None
        require(is_name, "user_agent_token", "a name of letters, digits, _ and -", token)
        require(token is None or bool(self.disallowed_directives), "user_agent_token", "null without directives", token)
        require(0 <= self.min_success_fraction <= 1, "min_success_fraction", "in 0..1", self.min_success_fraction)


UNKNOWN = "unknown"  # the language of a caption that nothing is sure of
KEEP_PICTURE = ("first", "largest", "sharpest")
KEEP_EMBEDDED = (*KEEP_PICTURE, "best_clip_score", "best_aesthetic")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """The policy that selects rows by the scores of pixels and captions, and the split."""

    min_side_px: int = 32  # of the shorter side
    max_aspect: float | None = 3.0  # longer side over shorter side
    min_std: float = 2.0  # of pixel values, 0..255: less is a flat picture
    min_words: int = 1
    min_chars: int = 3
    languages: tuple[str, ...] | None = None  # of captions, as ISO 639 codes, or "unknown"; None keeps all
    min_language_prob: float = 0.0  # below it a caption's language is unknown; of two words it is mostly below 0.3
    max_unsafe: float | None = None  # 0..1, where the source says it of its samples; 0.5 is usual
    max_watermark: float | None = None  # likewise; 0.8 is usual
    max_per_caption: int | None = None  # images with the same caption
    drop_duplicates: bool = True  # pictures with the same decoded pixels: one is kept
    max_hamming: int | None = None  # of 64-bit perceptual hashes; 4 is usual
    keep: str = "first"  # of duplicates, those named test apart: "first", "largest" or "sharpest"
    validation_fraction: float = 0.02  # of duplicate groups, where the source does not say "test"
    test_fraction: float = 0.05  # of duplicate groups, where the source names no split

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        for name in ("min_side_px", "min_std", "min_words", "min_chars", "validation_fraction", "test_fraction"):
            require(getattr(self, name) >= 0, name, ">= 0", getattr(self, name))
        aspect, per_caption, hamming = self.max_aspect, self.max_per_caption, self.max_hamming
        require(aspect is None or aspect >= 1, "max_aspect", ">= 1", aspect)
        require(per_caption is None or per_caption >= 1, "max_per_caption", ">= 1", per_caption)
        require(hamming is None or 0 <= hamming <= 16, "max_hamming", "in 0..16", hamming)
        held_out = self.validation_fraction + self.test_fraction
        require(held_out < 1, "validation_fraction + test_fraction", "below 1", held_out)
        if hamming is not None and not self.drop_duplicates:
            raise ValueError(f"max_hamming must be null without drop_duplicates, got {hamming}")
        self._check_scores()
        require(self.keep in KEEP_PICTURE, "keep", f"one of {', '.join(KEEP_PICTURE)}", self.keep)
        if self.keep != "first" and hamming is None:
            raise ValueError(f"keep must be first without max_hamming: duplicates have equal pixels, got {self.keep!r}")

    def _check_scores(self) -> None:
        """Raises: ValueError naming the field."""
        for name in ("min_language_prob", "max_unsafe", "max_watermark"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, "in 0..1", value)
        languages = self.languages
        codes = all(c == UNKNOWN or (len(c) in (2, 3) and c.isascii() and c.islower()) for c in languages or ())
        require(codes and languages != (), "languages", f"codes such as [en, de], or {UNKNOWN}", languages)
        if languages is None and self.min_language_prob:
            raise ValueError(f"min_language_prob must be 0 without languages, got {self.min_language_prob}")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How images and captions are embedded."""

    batch_size: int = 256  # rows that are encoded at a time
    precision: str = "fp32"  # "fp32", or "bf16": weights narrowed once, the rest by autocast
    workers: int = neutral(0)  # processes that decode; 0: threads, which do as well on a few cores

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        require(self.batch_size >= 1, "batch_size", ">= 1", self.batch_size)
        require(self.precision in ("fp32", "bf16"), "precision", "one of fp32, bf16", self.precision)
        require(self.workers >= 0, "workers", ">= 0", self.workers)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """The policy that selects rows by embeddings, and decontamination against held-out rows. None is off."""

    min_clip_score: float | None = None  # cosine of image and caption
    min_aesthetic: float | None = None  # rating by the head of the `aesthetic` section
    keep_fraction: float | None = None  # of the training rows, best CLIP score first
    max_duplicate_cosine: float | None = None  # of two training images; nearer ones are one
    keep: str = "first"  # of near duplicates: "first", "largest", "sharpest", "best_clip_score" or "best_aesthetic"
    max_leak_cosine: float | None = None  # of a training image and a validation or test image; nearer ones are dropped
    drop_shared_captions: bool = False  # training rows with a validation or test row's caption
    evaluation: str | None = None  # a dump of another evaluation set: its images and captions count as held-out ones

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        for name in ("min_clip_score", "max_duplicate_cosine", "max_leak_cosine"):
            value = getattr(self, name)
            require(value is None or -1 <= value <= 1, name, "a cosine in -1..1", value)
        fraction = self.keep_fraction
        require(fraction is None or 0 < fraction <= 1, "keep_fraction", "above 0 and at most 1", fraction)
        require(self.keep in KEEP_EMBEDDED, "keep", f"one of {', '.join(KEEP_EMBEDDED)}", self.keep)
        if self.keep != "first" and self.max_duplicate_cosine is None:
            raise ValueError(f"keep must be first without max_duplicate_cosine, got {self.keep!r}")
        if self.evaluation and self.max_leak_cosine is None and not self.drop_shared_captions:
            raise ValueError("evaluation has no effect without max_leak_cosine or drop_shared_captions")

    @property
    def needs_aesthetic(self) -> bool:
        """Whether the policy reads the score of an aesthetic head."""
        return self.min_aesthetic is not None or self.keep == "best_aesthetic"


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """The head that gives every embedded image a rating: a score column a part, and a figure of made pictures."""

    head: str  # a folder that `unclip fit-aesthetic` made with the same CLIP


INDEX_KINDS = ("auto", "flat", "ivf", "ivf_hnsw", "ivf_pq")


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The search index: its kind by the number of rows, or set; what each kind learns."""

    kind: str = "auto"  # "flat", "ivf", "ivf_hnsw", "ivf_pq", or by the number of rows
    min_recall: float = 0.9  # recall@10 against exact search; below it the stage fails
    num_probes: int | None = None  # lists searched; None: the fewest of 1, 2, 4, ... that reach min_recall
    num_lists: int | None = None  # at most, with lists; None: by the number of rows
    train_rows: int | None = None  # lists are learned on at most so many; None: 39 for each list
    code_bytes: int | None = None  # of a row ("ivf_pq"); None: 64

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        require(self.kind in INDEX_KINDS, "kind", f"one of {', '.join(INDEX_KINDS)}", self.kind)
        require(0 <= self.min_recall <= 1, "min_recall", "in 0..1", self.min_recall)
        for name, least in (("num_probes", 1), ("num_lists", 1), ("train_rows", 256), ("code_bytes", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, name, f">= {least}", value)
            if value is not None and (self.kind == "flat" or (name == "code_bytes" and self.kind != "ivf_pq")):
                raise ValueError(f"{name} must be null with kind {self.kind!r}, got {value}")
