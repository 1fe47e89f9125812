"""Settings of the data stages; free of heavy imports, so that a plan can read them at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Pictures drawn by us: `num_samples` in shards of `shard_size`, a share of the attributes' combinations held out."""

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
        for name, least in (("num_samples", 1), ("shard_size", 1), ("image_px", 16)):
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
    """A folder of images and a CSV of their captions."""

    folder: str
    captions: str  # CSV
    file_column: str = "file"
    caption_column: str = "caption"
    shard_size: int = 2_000


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """WebDataset tars that exist already; a brace or glob pattern."""

    pattern: str


@dataclass(frozen=True, kw_only=True)
class UrlsConfig:
    """A list of image URLs and captions: CSV, Parquet or JSONL by the file's ending."""

    path: str
    url_column: str = "url"
    caption_column: str = "caption"
    shard_size: int = 2_000


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How URLs are fetched, through img2dataset in its own environment."""

    num_processes: int = 2
    num_threads: int = 32  # a process
    timeout_s: float = 10.0  # a request
    deadline_s: float = 600.0  # a whole shard
    stall_s: float = 60.0  # without a finished row
    retries: int = 1
    schemes: tuple[str, ...] = ("http", "https")
    allow_private: bool = False  # addresses of loopback and private networks
    max_bytes: int = 20_000_000
    max_pixels: int = 64_000_000
    max_side_px: int = 512  # larger pictures are reduced to this on their longer side
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparency
    min_success_fraction: float = 0.5


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """The policy that selects rows by the scores of pixels and captions, and the split."""

    min_side_px: int = 32
    max_aspect: float = 3.0
    min_std: float = 2.0  # of pixel values, 0..255
    min_words: int = 1
    min_chars: int = 3
    max_per_caption: int | None = None  # images with the same caption
    drop_duplicates: bool = True  # same decoded pixels
    max_hamming: int | None = None  # of perceptual hashes; None is off
    validation_fraction: float = 0.02
    test_fraction: float = 0.05  # where the source names no split


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How images and captions are embedded."""

    batch_size: int = 256
    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """The policy that selects rows by embeddings, and decontamination against held-out rows."""

    min_clip_score: float | None = None  # cosine
    keep_fraction: float | None = None  # by CLIP score, of all rows
    max_duplicate_cosine: float | None = None  # near duplicates within training
    max_leak_cosine: float | None = None  # training rows too near a validation or test row
    drop_shared_captions: bool = False  # training rows with a test row's caption


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The search index: exact below a size, inverted lists above."""

    kind: str = "auto"  # "auto", "flat", "ivf"
    min_recall: float = 0.9  # recall@10 against exact search; below it the stage fails
    num_probes: int | None = None
    train_rows: int = 100_000
