"""Everything that is neither a network nor orchestration: store, tracking, launch, data, training, metrics, report."""
