"""One module a stage: artifacts in, one artifact out."""
