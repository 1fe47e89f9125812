"""Networks and diffusion mathematics: torch and open_clip only; no files, no logging, no Prefect."""
