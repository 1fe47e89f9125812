"""Networks and diffusion mathematics: torch, open_clip and tokenizers only; no files, no logging, no Prefect."""
